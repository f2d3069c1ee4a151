//! Draws the flows of a policy as an SVG: a box for each label, the lowest at the bottom.
//!
//! Flows by labels go through: where arrows lead from box to box, information may also go straight.
//! So only the shortest arrows are drawn (the order's Hasse diagram), and beside them what the labels
//! do not allow: what a trusted VM or the audit log carries, and what follows from both together.

use std::fmt::Write as _;

use protocol::VmId;
use protocol::label::Label;
use protocol::policy::Policy;

use super::flow::{Flows, Means};
use super::read::Names;

/// VMs of one label, drawn as one box. A trusted VM and an auditor have boxes of their own.
struct Class {
    label: Label,
    members: Vec<VmId>,
    /// Row from the bottom.
    layer: usize,
    /// Left edge and upper edge.
    corner: (usize, usize),
    lines: Vec<String>,
}

const BOX_WIDTH: usize = 290;
const LINE_HEIGHT: usize = 18;
const GAP: (usize, usize) = (70, 80);
const MARGIN: usize = 30;
const LEGEND: [(&str, &str); 4] = [
    ("labels", "by labels; also straight along every path of such arrows"),
    ("trust", "only by a trusted VM"),
    ("audit", "only by the audit log"),
    ("through", "only through a trusted VM or the audit log"),
];

/// The drawing of a policy.
pub fn svg(title: &str, policy: &Policy, names: &Names) -> String {
    let flows = Flows::of(policy);
    let mut classes = classes(policy, names);
    let (width, height) = place(&mut classes);
    let mut out = String::new();
    let legend = LEGEND.len() * LINE_HEIGHT + MARGIN;
    let total = height + legend + MARGIN;
    let width = width.max(560);
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{total}\" \
         viewBox=\"0 0 {width} {total}\" font-family=\"sans-serif\" font-size=\"13\">\n{STYLE}\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"{MARGIN}\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        escaped(&format!("Information flows of {title}"))
    );
    for (from, to, kind) in arrows(&classes, &flows) {
        out += &arrow(from, to, kind);
    }
    for class in &classes {
        out += &drawn(class);
    }
    for (row, (kind, words)) in LEGEND.iter().enumerate() {
        let y = height + MARGIN + row * LINE_HEIGHT;
        let _ = writeln!(
            out,
            "<line class=\"{kind}\" x1=\"{MARGIN}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" marker-end=\"url(#{kind})\"/>\
             <text x=\"{}\" y=\"{}\">{words}</text>",
            MARGIN + 40,
            MARGIN + 55,
            y + 4
        );
    }
    out + "</svg>\n"
}

/// Colours, and an arrow head for each kind of arrow.
const STYLE: &str = "<style>.box{fill:#f4f6f8;stroke:#444}line{stroke-width:1.6}\
.labels{stroke:#333}.trust{stroke:#c0392b;stroke-width:2.6}.audit{stroke:#2874a6}\
.through{stroke:#c0392b;stroke-dasharray:5 4;stroke-width:1.2}</style>\n<defs>\
<marker id=\"labels\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#333\"/></marker>\
<marker id=\"trust\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"5\" markerHeight=\"5\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#c0392b\"/></marker>\
<marker id=\"audit\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#2874a6\"/></marker>\
<marker id=\"through\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#c0392b\"/></marker>\
</defs>\n";

/// The boxes, without places.
fn classes(policy: &Policy, names: &Names) -> Vec<Class> {
    let mut classes: Vec<Class> = Vec::new();
    for (number, subject) in (0..).zip(&policy.subjects) {
        let is_alone = subject.trust.is_some() || !subject.roles.is_empty();
        let mut words: Vec<&str> = subject.roles.iter().map(|role| role.name()).collect();
        words.extend(subject.trust.as_ref().map(|_| "trusted"));
        let line = subject.name.clone();
        let held = (!words.is_empty()).then(|| format!("({})", words.join(", ")));
        let known =
            classes.iter_mut().find(|class| !is_alone && !class.lines.is_empty() && class.label == subject.label);
        match known.filter(|class| class.members.iter().all(|vm| is_plain(policy, *vm))) {
            Some(class) => {
                class.members.push(VmId(number));
                class.lines.push(line);
            }
            None => classes.push(Class {
                label: subject.label,
                members: vec![VmId(number)],
                layer: 0,
                corner: (0, 0),
                lines: [names.words(subject.label), line].into_iter().chain(held).collect(),
            }),
        }
    }
    // A label is above all from which information may flow to it.
    for _ in 0..classes.len() {
        let layers: Vec<(Label, usize)> = classes.iter().map(|class| (class.label, class.layer)).collect();
        for class in &mut classes {
            let below = layers.iter().filter(|(label, _)| *label != class.label && label.flows_to(class.label));
            class.layer = below.map(|(_, layer)| layer + 1).max().unwrap_or(0);
        }
    }
    classes
}

fn is_plain(policy: &Policy, vm: VmId) -> bool {
    policy.subjects.get(vm.0 as usize).is_some_and(|subject| subject.trust.is_none() && subject.roles.is_empty())
}

/// Gives each box its place; the size of the whole.
fn place(classes: &mut [Class]) -> (usize, usize) {
    let top = classes.iter().map(|class| class.layer).max().unwrap_or(0);
    let heights: Vec<usize> = (0..=top)
        .map(|layer| {
            let in_layer = classes.iter().filter(|class| class.layer == layer);
            in_layer.map(|class| class.lines.len() * LINE_HEIGHT + 12).max().unwrap_or(0)
        })
        .collect();
    let widest = (0..=top).map(|layer| classes.iter().filter(|class| class.layer == layer).count()).max().unwrap_or(0);
    let width = 2 * MARGIN + widest * BOX_WIDTH + widest.saturating_sub(1) * GAP.0;
    for layer in 0..=top {
        let y = 2 * MARGIN + heights.iter().skip(layer + 1).map(|height| height + GAP.1).sum::<usize>();
        let count = classes.iter().filter(|class| class.layer == layer).count();
        let row = count * BOX_WIDTH + count.saturating_sub(1) * GAP.0;
        // Rows are shifted a little against each other, so that long arrows miss the boxes between.
        let left = (width.saturating_sub(row)) / 2;
        for (column, class) in classes.iter_mut().filter(|class| class.layer == layer).enumerate() {
            class.corner = (left + column * (BOX_WIDTH + GAP.0), y);
        }
    }
    let height = 2 * MARGIN + heights.iter().sum::<usize>() + top * GAP.1;
    (width, height)
}

/// The arrows between boxes, with the kind of each.
fn arrows<'c>(classes: &'c [Class], flows: &Flows) -> Vec<(&'c Class, &'c Class, &'static str)> {
    let direct = |from: &Class, to: &Class| {
        let pairs = from.members.iter().flat_map(|a| to.members.iter().map(move |b| (*a, *b)));
        pairs.filter_map(|(a, b)| flows.direct(a, b)).min()
    };
    let mut found = Vec::new();
    for (i, from) in classes.iter().enumerate() {
        for (j, to) in classes.iter().enumerate().filter(|(j, _)| *j != i) {
            let kind = match direct(from, to) {
                Some(Means::Labels) => {
                    let between = classes.iter().enumerate().any(|(k, via)| {
                        k != i
                            && k != j
                            && via.label != from.label
                            && via.label != to.label
                            && from.label.flows_to(via.label)
                            && via.label.flows_to(to.label)
                    });
                    if between { continue } else { "labels" }
                }
                Some(Means::Trust) => "trust",
                Some(Means::Audit) => "audit",
                None => {
                    let reached = from.members.first().zip(to.members.first());
                    if reached.and_then(|(a, b)| flows.path(*a, *b)).is_none() {
                        continue;
                    }
                    "through"
                }
            };
            found.push((from, to, kind));
        }
    }
    found
}

/// One arrow from the edge of a box to the edge of another. The two directions lie beside each other.
fn arrow(from: &Class, to: &Class, kind: &str) -> String {
    let middle = |class: &Class| {
        let (x, y) = class.corner;
        ((x + BOX_WIDTH / 2) as f64, (y + class.height() / 2) as f64)
    };
    let ((ax, ay), (bx, by)) = (middle(from), middle(to));
    let (dx, dy) = (bx - ax, by - ay);
    let length = dx.hypot(dy).max(1.0);
    // To the right of the way that it goes.
    let (sx, sy) = (-dy / length * 12.0, dx / length * 12.0);
    // Where the line, beside the middles, crosses the edge of a box. `sign` is 1 when it leaves.
    let edge = |class: &Class, x: f64, y: f64, sign: f64| {
        let (dx, dy) = (sign * dx, sign * dy);
        let across = (BOX_WIDTH as f64 / 2.0 - sx * dx.signum()) / dx.abs().max(0.001);
        let along = (class.height() as f64 / 2.0 - sy * dy.signum()) / dy.abs().max(0.001);
        let reach = across.min(along);
        (x + sx + dx * reach, y + sy + dy * reach)
    };
    let (x1, y1) = edge(from, ax, ay, 1.0);
    let (x2, y2) = edge(to, bx, by, -1.0);
    format!(
        "<line class=\"{kind}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" marker-end=\"url(#{kind})\"/>\n"
    )
}

impl Class {
    fn height(&self) -> usize {
        self.lines.len() * LINE_HEIGHT + 12
    }
}

/// A box with its label and the names of its VMs.
fn drawn(class: &Class) -> String {
    let (x, y) = class.corner;
    let mut out = format!(
        "<rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{}\" rx=\"5\"/>\n",
        class.height()
    );
    for (row, line) in class.lines.iter().enumerate() {
        let style = if row == 0 { " font-style=\"italic\" fill=\"#555\"" } else { "" };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\"{style}>{}</text>",
            x + BOX_WIDTH / 2,
            y + (row + 1) * LINE_HEIGHT,
            escaped(line)
        );
    }
    out
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
