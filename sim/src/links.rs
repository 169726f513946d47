//! Links and the flows that share them, in steps of time.
//!
//! A flow crosses two links: the uplink of its source and the downlink of its node. In each step rates are raised in
//! rounds: every flow that can use more gets the smaller of the fair shares of the remaining bandwidth of its two
//! links. Flows that are satisfied or meet a full link drop out. After infinitely many rounds this is max-min fair.
//! After [`ROUNDS`] a link may be partly idle, never overcommitted. Not modelled: TCP's slow start, unfairness and
//! losses, and acknowledgements queued behind data.

use flights::SourceWatch;

/// The rounds of a step. Three times as many change the times in the docs by less than 1 %.
const ROUNDS: usize = 4;

/// Bytes in transit from a node or upstream to a node.
#[derive(Debug)]
pub struct Flow {
    pub node: u32,
    /// The node that sends, or [`Links::upstream`].
    pub source: u32,
    pub object: u32,
    /// When it began, and when the last bytes came, in microseconds.
    pub began: u64,
    pub last: u64,
    /// When the last report of bytes was sent.
    pub reported: u64,
    pub watch: SourceWatch,
    /// A question to the source is in transit.
    pub is_asking: bool,
    /// The bytes that the source could send now.
    pub want: u64,
    /// The bytes of this step.
    pub given: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The rate in bytes per second.
    rate: f64,
    left: f64,
    flows: u32,
}

impl Link {
    fn share(&self) -> f64 {
        self.left / f64::from(self.flows)
    }

    fn is_full(&self) -> bool {
        self.left < 1.0
    }
}

#[derive(Debug)]
pub struct Links {
    /// The uplinks: one for each node; upstream's is the last.
    up: Vec<Link>,
    down: Vec<Link>,
    open: Vec<(u32, f64)>,
}

impl Links {
    /// `nodes`: the bandwidth of each node in each direction, in bytes per second.
    pub fn new(nodes: &[f64], upstream: f64) -> Self {
        let link = |rate: &f64| Link {
            rate: *rate,
            ..Link::default()
        };
        let down: Vec<_> = nodes.iter().map(link).collect();
        let mut up = down.clone();
        up.push(link(&upstream));
        Self {
            up,
            down,
            open: Vec::new(),
        }
    }

    /// The number of upstream as a source.
    pub fn upstream(&self) -> u32 {
        self.down.len() as u32
    }

    /// Shares the links for `seconds`.
    pub fn share(&mut self, seconds: f64, flows: &mut [Flow]) {
        let Self { up, down, open } = self;
        for link in up.iter_mut().chain(down.iter_mut()) {
            link.left = link.rate * seconds;
        }
        open.clear();
        for (index, flow) in flows.iter_mut().enumerate() {
            flow.given = 0.0;
            if flow.want > 0 {
                open.push((index as u32, 0.0));
            }
        }
        for _ in 0..ROUNDS {
            for link in up.iter_mut().chain(down.iter_mut()) {
                link.flows = 0;
            }
            for (index, _) in open.iter() {
                let flow = &flows[*index as usize];
                up[flow.source as usize].flows += 1;
                down[flow.node as usize].flows += 1;
            }
            for (index, more) in open.iter_mut() {
                let flow = &flows[*index as usize];
                let shares = up[flow.source as usize]
                    .share()
                    .min(down[flow.node as usize].share());
                *more = shares.min(flow.want as f64 - flow.given);
            }
            for (index, more) in open.iter() {
                let flow = &mut flows[*index as usize];
                flow.given += more;
                up[flow.source as usize].left -= more;
                down[flow.node as usize].left -= more;
            }
            open.retain(|(index, _)| {
                let flow = &flows[*index as usize];
                let (up, down) = (&up[flow.source as usize], &down[flow.node as usize]);
                flow.given + 1.0 <= flow.want as f64 && !up.is_full() && !down.is_full()
            });
            if open.is_empty() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flights::Time;

    use super::*;

    fn flow(source: u32, node: u32, want: u64) -> Flow {
        Flow {
            node,
            source,
            object: 0,
            began: 0,
            last: 0,
            reported: 0,
            watch: SourceWatch::new(Time(0)),
            is_asking: false,
            want,
            given: 0.0,
        }
    }

    #[test]
    fn what_one_flow_cannot_use_another_gets() {
        let mut links = Links::new(&[1_000.0, 1_000.0, 100.0], 10_000.0);
        let upstream = links.upstream();
        // Node 0 sends to 1 and to 2, which is slow; 1 takes from upstream too.
        let mut flows = [
            flow(0, 1, 10_000),
            flow(0, 2, 10_000),
            flow(upstream, 1, 300),
        ];
        links.share(1.0, &mut flows);
        let given: Vec<_> = flows.iter().map(|flow| flow.given.round()).collect();
        assert_eq!(given, [700.0, 100.0, 300.0]);
    }
}
