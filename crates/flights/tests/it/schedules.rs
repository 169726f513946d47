//! Messages that are lost, doubled or delayed; nodes that die, restart or are held up.

use flights::Decision;
use flights::ledger::BUDGET;
use proptest::prelude::*;

use crate::cluster::{Cluster, id};
use crate::pulling::{Pulling, STEP_MILLIS, Wait};

/// The assumed time to upstream's first byte, in milliseconds.
const FIRST_BYTE: u64 = 1_000;
const OBJECTS: usize = 3;
/// The budget of a pull plus upstream's time, in milliseconds.
const LIMIT: u64 = BUDGET.as_millis() as u64 + FIRST_BYTE;
/// The most that waiting for a slow upstream is free, in milliseconds.
const SLOW_UPSTREAM: u64 = 12_000;
/// The most that a request waits while its node receives, in milliseconds.
const MAX_WAIT: u64 = 22_000;

#[derive(Clone, Debug)]
enum Action {
    Want {
        node: usize,
        object: usize,
        repository: u64,
    },
    Cancel {
        node: usize,
        object: usize,
    },
    /// The pull gets far too little.
    Complain {
        node: usize,
        object: usize,
    },
    /// Whether others are held up behind the node.
    SetSlow {
        node: usize,
        is_slow: bool,
    },
    Kill {
        node: usize,
    },
    Start {
        node: usize,
    },
    HoldUp {
        node: usize,
        millis: u64,
    },
    Deny {
        node: usize,
    },
    Permit {
        node: usize,
    },
    Split {
        parts: usize,
    },
    Heal,
}

#[derive(Clone, Debug)]
struct Schedule {
    nodes: usize,
    seed: u64,
    /// The minimal number of members of a shard.
    shard: usize,
    /// Whether downloads share the slots of a node.
    requeue_after: bool,
    /// Whether mirrors fetch what their nodes lead.
    leads_at_once: bool,
    lost: u64,
    doubled: u64,
    latency: u64,
    /// The actions, each after this many steps.
    actions: Vec<(u64, Action)>,
}

impl Schedule {
    /// How long a pull with these waits may wait, in milliseconds: with several shards, for two arbiters.
    fn limit<'a>(&self, mut waits: impl Iterator<Item = &'a Wait>) -> u64 {
        let is_one = self.shard > self.nodes;
        let second_arbiter = if is_one { 0 } else { FIRST_BYTE };
        if self.leads_at_once {
            return MAX_WAIT;
        }
        let is_slow = waits.any(|wait| wait.for_slow_upstream);
        LIMIT + second_arbiter + if is_slow { SLOW_UPSTREAM } else { 0 }
    }

    /// The number of shards: a power of two, each with at least `shard` nodes.
    fn shards(&self) -> usize {
        let most = (self.nodes / self.shard).max(1);
        1 << most.ilog2()
    }
}

fn action(is_calm: bool) -> BoxedStrategy<Action> {
    let (node, object) = (0..12_usize, 0..OBJECTS);
    let both = (node.clone(), object);
    let want = (both.clone(), 0..2_u64);
    let calm = prop_oneof![
        12 => want.prop_map(|((node, object), repository)| Action::Want { node, object, repository }),
        2 => both.clone().prop_map(|(node, object)| Action::Cancel { node, object }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, is_slow)| Action::SetSlow { node, is_slow }),
        1 => node.clone().prop_map(|node| Action::Kill { node }),
        1 => node.clone().prop_map(|node| Action::Start { node }),
        1 => node.clone().prop_map(|node| Action::Deny { node }),
        1 => node.clone().prop_map(|node| Action::Permit { node }),
    ];
    let rough = prop_oneof![
        2 => both.prop_map(|(node, object)| Action::Complain { node, object }),
        1 => (node, 100..6_000_u64).prop_map(|(node, millis)| Action::HoldUp { node, millis }),
        1 => (1..4_095_usize).prop_map(|parts| Action::Split { parts }),
        1 => Just(Action::Heal),
    ];
    if is_calm {
        calm.boxed()
    } else {
        prop_oneof![19 => calm, 5 => rough].boxed()
    }
}

fn schedule(is_calm: bool) -> impl Strategy<Value = Schedule> {
    let lost = if is_calm { 0..1_u64 } else { 0..200_u64 };
    let latency = if is_calm { 1..20_u64 } else { 1..120_u64 };
    let actions = prop::collection::vec((0..8_u64, action(is_calm)), 1..40);
    // Each node alone, a few shards, or one shard.
    let cluster = prop_oneof![(2..7_usize, Just(usize::MAX)), (4..12_usize, 1..4_usize)];
    let chance = (any::<u64>(), any::<bool>(), prop::bool::weighted(0.25));
    (cluster, chance, lost, 0..200_u64, latency, actions).prop_map(
        |(
            (nodes, shard),
            (seed, requeue_after, leads_at_once),
            lost,
            doubled,
            latency,
            actions,
        )| Schedule {
            nodes,
            shard,
            requeue_after,
            leads_at_once,
            seed,
            lost,
            doubled,
            latency,
            actions,
        },
    )
}

/// Runs this many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").map(|_| default.cases);
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 4_096,
        ..default
    }
}

/// Runs a schedule and then lets all nodes finish. `check` is called after each step with its decisions.
fn run(
    schedule: &Schedule,
    is_lenient: bool,
    mut check: impl FnMut(&Pulling, &[(usize, usize, Decision)]) -> Result<(), TestCaseError>,
) -> Result<Pulling, TestCaseError> {
    let mut cluster = Cluster::divided(schedule.nodes, schedule.seed, schedule.shard);
    cluster.lost = schedule.lost;
    cluster.doubled = schedule.doubled;
    cluster.latency = schedule.latency;
    let mut pulling = Pulling::new(cluster, OBJECTS);
    pulling.is_lenient = is_lenient;
    pulling.requeue_after = schedule.requeue_after;
    pulling.leads_at_once = schedule.leads_at_once;
    let mut step = |pulling: &mut Pulling| {
        let came = pulling.step();
        in_time(pulling, schedule)?;
        prop_assert_eq!(pulling.lasting_ring(), None, "nodes feed each other");
        check(pulling, &came)
    };
    for (steps, action) in &schedule.actions {
        for _ in 0..*steps {
            step(&mut pulling)?;
        }
        act(&mut pulling, schedule.nodes, action);
    }
    act(&mut pulling, schedule.nodes, &Action::Heal);
    pulling.denied.fill(false);
    for _ in 0..(MAX_WAIT + 3_000) / STEP_MILLIS {
        step(&mut pulling)?;
    }
    for ((node, object), pull) in &pulling.pulls {
        prop_assert!(pull.done, "{} has no {}: {:?}", node, object, pull);
    }
    for node in (0..schedule.nodes).filter(|n| pulling.cluster.is_up(*n)) {
        prop_assert_eq!(pulling.cluster.node(node).pending_requests(), 0);
    }
    if !schedule.leads_at_once {
        budgets(&pulling, schedule)?;
    }
    Ok(pulling)
}

fn act(pulling: &mut Pulling, nodes: usize, action: &Action) {
    match *action {
        Action::Want {
            node,
            object,
            repository,
        } => pulling.want(node % nodes, object, repository),
        Action::Cancel { node, object } => pulling.cancel(node % nodes, object),
        Action::Complain { node, object } => pulling.leave_slow_source(node % nodes, object),
        Action::SetSlow { node, is_slow } => pulling.set_slow(node % nodes, is_slow),
        Action::Kill { node } => pulling.kill(node % nodes),
        Action::Start { node } => {
            let others: Vec<_> = (0..nodes).filter(|n| *n != node % nodes).collect();
            pulling.start(node % nodes, &others);
        }
        Action::HoldUp { node, millis } => {
            pulling.cluster.hold_up(node % nodes, millis);
            // The waits of a node that is held up then do not count.
            pulling
                .waits
                .iter_mut()
                .filter(|w| w.node == node % nodes)
                .for_each(|w| w.excused = true);
        }
        Action::Deny { node } => pulling.denied[node % nodes] = true,
        Action::Permit { node } => pulling.denied[node % nodes] = false,
        Action::Split { parts } => pulling.cluster.split(|node| parts >> node & 1),
        Action::Heal => pulling.cluster.split(|_| 0),
    }
}

/// No request waits longer than its budget and upstream's usual time.
fn in_time(pulling: &Pulling, schedule: &Schedule) -> Result<(), TestCaseError> {
    for wait in pulling.waits.iter().filter(|wait| !wait.excused) {
        let to = wait.to.as_ref().map_or(pulling.cluster.now, |(to, _)| *to);
        prop_assert!(
            to - wait.from <= schedule.limit(std::iter::once(wait)),
            "{:?} at {}",
            wait,
            pulling.cluster.now
        );
    }
    Ok(())
}

/// The total wait of the requests of one pull, with simultaneous waits counted once: if they found a source, what
/// exceeds upstream's usual time; otherwise all of it.
fn budgets(pulling: &Pulling, schedule: &Schedule) -> Result<(), TestCaseError> {
    for node in 0..pulling.cluster.len() {
        for repository in 0..2 {
            // If upstream has failed, each request may wait.
            let fails = pulling.failures.iter();
            let fails = fails.filter(|f| (f.node, f.repository) == (node, repository));
            let failed_at = fails.map(|failure| failure.at).min().unwrap_or(u64::MAX);
            let of_pull = |wait: &&Wait| {
                (wait.node, wait.repository) == (node, repository)
                    && wait.to.as_ref().is_none_or(|(to, _)| *to < failed_at)
            };
            let waits = pulling.waits.iter().filter(of_pull);
            if waits.clone().any(|wait| wait.excused) {
                continue;
            }
            let limit = schedule.limit(waits.clone());
            let mut spans: Vec<_> = waits.map(cost).collect();
            spans.sort_unstable();
            let (mut total, mut end) = (0, 0);
            for (from, to) in spans {
                total += to.saturating_sub(from.max(end));
                end = end.max(to);
            }
            prop_assert!(
                total <= limit,
                "{}/{} waited {} ms: {:?}",
                node,
                repository,
                total,
                pulling.waits
            );
        }
    }
    Ok(())
}

fn cost(wait: &Wait) -> (u64, u64) {
    match &wait.to {
        Some((to, Some(Decision::Follow { .. } | Decision::Later))) => {
            ((wait.from + FIRST_BYTE).min(*to), *to)
        }
        Some((to, _)) => (wait.from, *to),
        None => panic!("{wait:?} has no end"),
    }
}

proptest! {
    #![proptest_config(config(1_024))]

    #[test]
    fn nobody_waits_beyond_its_budget_and_no_two_feed_each_other(schedule in schedule(false)) {
        run(&schedule, false, |_, _| Ok(()))?;
    }

    /// All members see each other and no message is lost, but nodes die, restart, fail or give up. More than one leads
    /// only if a later leader has found the earlier one useless.
    #[test]
    fn no_two_lead_and_who_failed_lets_others_lead(schedule in schedule(true)) {
        // Two arbiters know less than one: with several shards, sources themselves see to it that there is no ring.
        let is_one = schedule.shard > schedule.nodes;
        run(&schedule, is_one, |pulling, came| {
            for object in 0..OBJECTS {
                let leads = pulling.leads(object);
                let knows_none_of_use = |lead: &&usize| {
                    let failed = &pulling.pulls[&(**lead, object)].failed;
                    leads.iter().any(|other| failed.contains(&id(*other)))
                };
                let is_slow = |lead: &&usize| {
                    pulling.lagged[**lead] || pulling.left.contains(&(**lead, object))
                };
                let sound = leads.iter().filter(|lead| !is_slow(lead) && !knows_none_of_use(lead));
                // Nodes that have just started see other owners than the rest for a while. With several shards, each
                // decides alone once the arbiter that it asks has died without notice.
                let is_new = pulling.ended.is_some_and(|at| pulling.cluster.now < at + 15_000);
                let most = match is_settled(pulling) {
                    true if !is_one && is_new => schedule.shards(),
                    true => 1,
                    false if is_one => 3,
                    // The same while a node that has just started is not yet a member for all.
                    false => schedule.shards().max(4),
                };
                prop_assert!(sound.count() <= most, "{:?} lead {}", leads, object);
            }
            for (node, object, decision) in came {
                // Of several arbiters, none sees all requests. Nodes that can wait do not mind who leads.
                let can_wait = schedule.leads_at_once;
                if is_one && !can_wait && *decision == Decision::Lead && is_settled(pulling) {
                    lets_others(pulling, *node, *object)?;
                }
            }
            Ok(())
        })?;
    }
}

fn is_settled(pulling: &Pulling) -> bool {
    let is_old = |at: u64| pulling.cluster.now > at + 15_000;
    pulling.started.is_none_or(is_old)
}

/// A node that failed before it asked leads only if no node that has not failed asked as well.
fn lets_others(pulling: &Pulling, node: usize, object: usize) -> Result<(), TestCaseError> {
    let is_it = |w: &&Wait| (w.node, w.object) == (node, object);
    let wait = pulling.waits.iter().rfind(is_it).expect("it waited");
    let granted = wait.to.as_ref().expect("it was granted").0;
    let failed = |node: usize, repository: u64, before: u64, is_past: bool| {
        let mut failures = pulling.failures.iter().filter(|f| is_past || !f.is_past);
        failures.any(|f| (f.node, f.repository) == (node, repository) && f.at <= before)
    };
    if !failed(node, wait.repository, wait.from, false) {
        return Ok(());
    }
    for other in &pulling.waits {
        let asks = other.object == object
            && other.node != node
            && other.knew
            // A slow node lets others lead for a moment.
            && !pulling.lagged[other.node]
            && other.from + 100 < granted
            && other.to.as_ref().is_none_or(|(to, _)| *to > granted + 100);
        prop_assert!(
            !asks || failed(other.node, other.repository, granted, true),
            "{} was told to lead {} while {} waited",
            node,
            object,
            other.node
        );
    }
    Ok(())
}

/// All pulls but those of one node fail upstream. That node must not be held up by this.
#[test]
fn forty_objects_that_every_lead_fails_to_bring_cost_two_seconds() {
    for refusal in [1, 4, 10, 18] {
        let cluster = Cluster::new(5);
        let mut pulling = Pulling::new(cluster, 40);
        pulling.refusal = refusal;
        pulling.denied[1..].fill(true);
        let mut next = 0;
        let end = pulling.cluster.now + 50_000;
        while pulling.cluster.now < end
            && (0..40).any(|o| !pulling.pulls.get(&(0, o)).is_some_and(|p| p.done))
        {
            for node in 1..5 {
                for object in next..(next + 3).min(40) {
                    pulling.want(node, object, 1);
                }
            }
            pulling.step();
            let running = |o: &usize| pulling.pulls.get(&(0, *o)).is_some_and(|p| !p.done);
            if (0..next).filter(running).count() < 3 && next < 40 {
                pulling.want(0, next, 1);
                next += 1;
            }
        }
        assert!((0..40).all(|o| pulling.pulls[&(0, o)].done), "{refusal}");
        let mut spans: Vec<_> = pulling
            .waits
            .iter()
            .filter(|w| w.node == 0)
            .map(cost)
            .collect();
        spans.sort_unstable();
        let (mut total, mut last) = (0, 0);
        for (from, to) in spans {
            total += to.saturating_sub(from.max(last));
            last = last.max(to);
        }
        println!(
            "leads that fail after {} ms: {total} ms",
            refusal * STEP_MILLIS
        );
        // A decision is seen at the end of a step.
        let most = BUDGET.as_millis() as u64 + STEP_MILLIS;
        assert!(total <= most, "{refusal}: {total} ms");
    }
}
