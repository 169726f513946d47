//! Draws how many nodes have finished at each time, as an SVG.

use std::fmt::Write as _;

use crate::measure::RunResult;
use crate::setup::Mode;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;
/// The points of a curve.
const POINTS: usize = 200;

/// Draws one curve for each outcome, and the bound of the first, over time on a logarithmic scale.
pub fn svg(outcomes: &[&RunResult]) -> String {
    let ends = || outcomes.iter().flat_map(|outcome| &outcome.ends);
    let last = ends().copied().fold(1.0, f64::max);
    let bound = outcomes.first().map_or(1.0, |outcome| outcome.bound);
    let first = 10_f64.powf((bound / 2.0).log10().floor());
    let scale = Scale {
        first,
        decades: (last / first).log10().ceil(),
    };
    let nodes = outcomes.first().map_or(0, |outcome| outcome.nodes);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="24" font-size="15" fill="#202020">Nodes that have the image, of {nodes} that began together (simulated)</text>
"##
    );
    axes(&mut svg, &scale);
    let x = scale.x(bound);
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    let _ = writeln!(
        svg,
        r##"<line x1="{x:.1}" y1="{top}" x2="{x:.1}" y2="{bottom}" stroke="#606060" stroke-dasharray="4 4"/>
<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#606060">bound</text>"##,
        x - 6.0,
        top + 14.0
    );
    for (number, outcome) in outcomes.iter().enumerate() {
        curve(&mut svg, &scale, outcome, number);
    }
    svg + "</svg>\n"
}

struct Scale {
    /// The seconds at the left end.
    first: f64,
    decades: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        let part = (seconds.max(self.first) / self.first).log10() / self.decades;
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    fn y(part: f64) -> f64 {
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

fn axes(svg: &mut String, scale: &Scale) {
    let bottom = HEIGHT - BOTTOM;
    for quarter in 0..=4 {
        let y = Scale::y(f64::from(quarter) / 4.0);
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#e4e4e4"/>
<text x="{:.1}" y="{:.1}" text-anchor="end" fill="#404040">{} %</text>"##,
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            quarter * 25
        );
    }
    let mut decade = scale.first;
    while decade <= scale.first * 10_f64.powf(scale.decades) * 1.001 {
        for step in [1.0, 2.0, 5.0] {
            let x = scale.x(decade * step);
            if x <= WIDTH - RIGHT + 0.5 {
                let _ = writeln!(
                    svg,
                    r##"<line x1="{x:.1}" y1="{bottom}" x2="{x:.1}" y2="{}" stroke="#404040"/>
<text x="{x:.1}" y="{}" text-anchor="middle" fill="#404040">{}</text>"##,
                    bottom + 5.0,
                    bottom + 20.0,
                    decade * step
                );
            }
        }
        decade *= 10.0;
    }
    let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
    let _ = writeln!(
        svg,
        r##"<text x="{middle}" y="{}" text-anchor="middle" fill="#404040">seconds</text>"##,
        HEIGHT - 14.0
    );
}

fn curve(svg: &mut String, scale: &Scale, outcome: &RunResult, number: usize) {
    let (name, colour) = match outcome.mode {
        Mode::Peili => ("Peili", "#0b6e4f"),
        Mode::Spegel => ("Spegel's rule", "#c8553d"),
        Mode::Alone => ("no P2P", "#5b5ea6"),
    };
    let mut path = format!("M{:.1} {:.1}", scale.x(scale.first), Scale::y(0.0));
    let count = outcome.ends.len();
    let mut last = 0;
    for point in 1..=POINTS {
        let index = (count * point / POINTS).max(1) - 1;
        let Some(end) = outcome.ends.get(index).filter(|_| index >= last) else {
            continue;
        };
        last = index + 1;
        let (x, y) = (
            scale.x(*end),
            Scale::y(last as f64 / f64::from(outcome.nodes)),
        );
        let _ = write!(path, " L{x:.1} {y:.1}");
    }
    let y = TOP + 34.0 + 18.0 * number as f64;
    let _ = writeln!(
        svg,
        r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>
<line x1="{0}" y1="{y}" x2="{1}" y2="{y}" stroke="{colour}" stroke-width="2.5"/>
<text x="{2}" y="{3}" fill="#202020">{name}</text>"##,
        LEFT + 12.0,
        LEFT + 34.0,
        LEFT + 42.0,
        y + 4.0
    );
}
