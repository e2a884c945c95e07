//! The chart, as SVG.

use std::fmt::Write;

use crate::candidates::Candidate;
use crate::measures::Measure;
use crate::report::Measured;

const WIDTH: usize = 860;
const MARGIN: usize = 20;
const BAR: usize = 13;
const STEP: usize = BAR + 3;
/// The left end of the bars, after the names of the candidates.
const LEFT: usize = 130;
/// The longest bar; the rest is for its figures.
const LONGEST: f64 = 470.0;
const HEADER: usize = 92;

const OURS: &str = "#1f6feb";
const LIMIT: &str = "#8c959f";
const OTHERS: [&str; 5] = ["#d1691a", "#8250df", "#1a7f5a", "#bf3989", "#9a6700"];

const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}\
.paper{fill:#fff;stroke:#d0d7de}.title{font-size:17px;font-weight:600}.group{font-weight:600}\
.small{fill:#59636e}.axis{stroke:#d0d7de}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117;stroke:#3d444d}\
.small{fill:#9198a1}.axis{stroke:#3d444d}}";

/// A group of bars for each scenario: what it is about first, each group with a linear scale of its own
/// that begins at zero.
pub(crate) fn chart(machine: &str, candidates: &[Candidate], measured: &[Measured<'_>]) -> String {
    let mut colours = Vec::new();
    let mut others = OTHERS.iter().cycle();
    for candidate in candidates {
        colours.push(match candidate {
            candidate if candidate.is_ours() => OURS,
            candidate if candidate.is_limit() => LIMIT,
            _ => others.next().copied().unwrap_or(LIMIT),
        });
    }

    let mut body = String::new();
    let mut y = HEADER;
    for measured in measured {
        y = group(&mut body, y, candidates, &colours, measured);
    }

    let height = y + MARGIN;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"title description\">\n\
         <title id=\"title\">MPROXY against the limit of the kernel</title>\n\
         <desc id=\"description\">Bars for each scenario: {}. Measured on {}.</desc>\n\
         <style>{STYLE}</style>\n\
         <rect class=\"paper\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"6\"/>\n",
        escaped(&candidates.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>().join(", ")),
        escaped(machine),
        WIDTH - 1,
        height - 1
    );
    text(&mut svg, MARGIN, 32, "title", "MPROXY against the limit of the kernel");
    let scale = "Each group has its own linear scale, from zero to its largest figure. Medians.";
    text(&mut svg, MARGIN, 52, "small", &format!("{scale} {machine}"));
    legend(&mut svg, candidates, &colours);
    svg + &body + "</svg>\n"
}

fn legend(svg: &mut String, candidates: &[Candidate], colours: &[&str]) {
    let mut x = MARGIN;
    for (candidate, colour) in candidates.iter().zip(colours) {
        let label = match candidate {
            candidate if candidate.is_limit() => "limit: the tightest loop over the same system calls",
            candidate => &candidate.name,
        };
        rectangle(svg, x, 66, 12.0, colour);
        text(svg, x + 18, 76, "", label);
        // About the width of the text.
        x += 18 + label.chars().count() * 7 + 20;
    }
}

/// Draws the group, and returns where the next one begins.
fn group(
    body: &mut String,
    top: usize,
    candidates: &[Candidate],
    colours: &[&str],
    measured: &Measured<'_>,
) -> usize {
    let medians = measured.medians();
    let Some((measure, _)) = medians.iter().find_map(|sample| sample.first()) else { return top };
    let largest = medians.iter().filter_map(|sample| sample.first()).fold(0.0, |most, (_, v)| v.max(most));
    let largest = if *measure == Measure::Arrived { 100.0 } else { largest };

    let mut y = top + 18;
    text(body, MARGIN, y, "group", &measured.scenario.title);
    let aim = if measure.less_is_better() { "less is better" } else { "more is better" };
    let _ = writeln!(
        body,
        "<text class=\"small\" x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}, {aim}</text>",
        WIDTH - MARGIN,
        measure.name()
    );
    y += 7;
    let start = y;
    for (n, sample) in medians.iter().enumerate() {
        let Some((_, value)) = sample.first() else { continue };
        let length = if largest > 0.0 { value / largest * LONGEST } else { 0.0 };
        text(body, MARGIN, y + 11, "", &shortened(&candidates[n].name));
        rectangle(body, LEFT, y, length, colours[n]);
        let mut label = measure.show(*value);
        // The figure without which the first would say too little.
        if let Some((second, value)) = sample.get(1) {
            let _ = write!(label, "  ({}: {})", second.name(), second.show(*value));
        }
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT as f64 + length + 6.0,
            y + 11,
            escaped(&label)
        );
        y += STEP;
    }
    let _ = writeln!(
        body,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{}\" x2=\"{LEFT}\" y2=\"{}\"/>",
        start - 2,
        y - 1
    );
    y + 8
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, content: &str) {
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(content));
}

fn rectangle(svg: &mut String, x: usize, y: usize, width: f64, colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"1.5\" fill=\"{colour}\"/>"
    );
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 15 { name.to_owned() } else { name.chars().take(14).chain(['…']).collect() }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
