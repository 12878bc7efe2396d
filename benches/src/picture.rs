//! The figures as a picture: one group of bars for each position, readable on light and on dark pages.

use std::fmt::Write as _;

use crate::chain::Position;
use crate::relay::{Outcome, Who};
use crate::report::Spread;

/// Who is drawn, with its colour on light and on dark.
const BARS: [(Who, &str, &str, &str); 3] = [
    (Who::CTor, "ctor", "#8a6d9f", "#b79acd"),
    (Who::Ours, "ours", "#c8791b", "#f0a848"),
    (Who::Floor, "floor", "#5f7d8c", "#93b4c4"),
];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 44.0;
const BAR: f64 = 52.0;
const GAP: f64 = 10.0;

/// An SVG of CPU seconds per GB: medians as bars, minimum and maximum as whiskers.
pub fn relay(outcome: &Outcome) -> String {
    let spread = |who, position| Spread::of(&outcome.cpu(who, position));
    let shown: Vec<_> = BARS
        .into_iter()
        .filter(|(who, ..)| spread(*who, Position::Guard).is_some())
        .collect();
    let most = shown
        .iter()
        .flat_map(|(who, ..)| Position::ALL.map(|position| spread(*who, position).map_or(0.0, |s| s.max)))
        .fold(0.0, f64::max);
    let (step, top) = scale(most);
    let height = HEIGHT - TOP - BOTTOM;
    let y = |value: f64| TOP + height * (1.0 - value / top);
    let mut svg = String::new();
    head(&mut svg, &shown);
    for n in 0..=(top / step).round() as u32 {
        let tick = f64::from(n) * step;
        let at = y(tick);
        put(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                WIDTH - RIGHT
            ),
        );
        put(
            &mut svg,
            format_args!(
                "<text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.1}</text>",
                LEFT - 8.0,
                at + 4.0
            ),
        );
    }
    let group = (WIDTH - LEFT - RIGHT) / 3.0;
    let used = shown.len() as f64 * (BAR + GAP) - GAP;
    for (place, position) in (0_u8..).zip(Position::ALL) {
        let start = LEFT + group * f64::from(place) + (group - used) / 2.0;
        for (n, (who, class, ..)) in (0_u8..).zip(&shown) {
            if let Some(spread) = spread(*who, position) {
                bar(&mut svg, start + f64::from(n) * (BAR + GAP), class, spread, &y);
            }
        }
        put(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                LEFT + group * (f64::from(place) + 0.5),
                HEIGHT - 16.0,
                position.name()
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "{line}");
}

fn head(svg: &mut String, shown: &[(Who, &str, &str, &str)]) {
    put(
        svg,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"CPU seconds per GB forwarded\">"
        ),
    );
    let colours = |pick: fn(&(Who, &'static str, &'static str, &'static str)) -> &'static str| {
        let rules = BARS.iter().map(|bar| format!(".{}{{fill:{}}}", bar.1, pick(bar)));
        rules.collect::<String>()
    };
    put(
        svg,
        format_args!(
            "<style>text{{font:14px system-ui,sans-serif;fill:#222}}.small{{font-size:12px}}.title{{font-size:16px}}\
             .grid{{stroke:#8884;stroke-width:1}}.whisker{{stroke:#222;stroke-width:1.5}}{}\
             @media(prefers-color-scheme:dark){{text{{fill:#e8e8e8}}.whisker{{stroke:#e8e8e8}}{}}}</style>",
            colours(|bar| bar.2),
            colours(|bar| bar.3)
        ),
    );
    put(
        svg,
        format_args!("<text class=\"title\" x=\"{LEFT}\" y=\"24\">CPU seconds per GB that a relay forwards</text>"),
    );
    for (n, (who, class, ..)) in (0_u8..).zip(shown) {
        let x = LEFT + f64::from(n) * 150.0;
        put(
            svg,
            format_args!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"36\" width=\"12\" height=\"12\" rx=\"2\"/>\
                 <text class=\"small\" x=\"{}\" y=\"47\">{}</text>",
                x + 18.0,
                who.name()
            ),
        );
    }
}

fn bar(svg: &mut String, x: f64, class: &str, spread: Spread, y: &impl Fn(f64) -> f64) {
    let (top, foot) = (y(spread.median), y(0.0));
    let middle = x + BAR / 2.0;
    put(
        svg,
        format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{BAR}\" height=\"{:.1}\" rx=\"2\"/>",
            foot - top
        ),
    );
    let (least, most) = (y(spread.min), y(spread.max));
    put(
        svg,
        format_args!(
            "<line class=\"whisker\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{least:.1}\" y2=\"{most:.1}\"/>"
        ),
    );
    put(
        svg,
        format_args!(
            "<text class=\"small\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.2}</text>",
            most - 6.0,
            spread.median
        ),
    );
}

/// Distance of the lines and the highest of them, so that `most` fits with its label.
fn scale(most: f64) -> (f64, f64) {
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
        .into_iter()
        .find(|step| most / step <= 7.0)
        .unwrap_or(50.0);
    (step, ((most * 1.08) / step).ceil().max(1.0) * step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Measured;

    fn outcome(who: &[Who]) -> Outcome {
        let measured = who.iter().map(|who| Measured {
            run: 0,
            who: *who,
            cpu_s_per_gb: [4.5, 4.4, 4.6],
            carried: None,
        });
        Outcome::example(measured.collect())
    }

    #[test]
    fn every_position_has_a_bar_for_everybody_who_was_measured() {
        let svg = relay(&outcome(&[Who::Ours, Who::CTor, Who::Floor]));
        for class in ["ours", "ctor", "floor"] {
            let bars = svg.matches(&format!("<rect class=\"{class}\"")).count();
            assert_eq!(bars, 4, "three bars of {class} and its place in the legend");
        }
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn who_was_not_measured_is_not_in_the_legend() {
        let svg = relay(&outcome(&[Who::Ours]));
        assert!(!svg.contains("C Tor"));
    }

    #[test]
    fn everything_fits_under_the_highest_line() {
        for most in [0.01, 0.7, 1.5, 4.9, 7.0, 63.0] {
            let (step, top) = scale(most);
            assert!(top > most && top / step <= 9.0, "{most}: {step} {top}");
        }
    }
}
