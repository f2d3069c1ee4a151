//! An audit for people: findings by rule, and a table of counts.

use std::fmt::Write;

use super::rules::{Class, RULES, Rule};
use super::{Finding, Report};
use crate::console::harmless;

/// How much is said, and how.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Colours are wanted.
    pub colours: bool,
    /// Every site, however many there are.
    pub all: bool,
    /// Findings of every class fail.
    pub strict: bool,
}

/// Sites of one rule that are shown unless all are wanted.
const SITES: usize = 10;

/// One program: a line for itself, then its findings by rule.
pub fn report(report: &Report, style: Style) -> String {
    let mut text = format!(
        "{} ({}): {} instructions in {} bytes of code\n",
        report.name, report.file, report.instructions, report.bytes
    );
    for rule in RULES {
        let sites: Vec<&Finding> = report.findings.iter().filter(|finding| finding.hit.rule == rule).collect();
        if !sites.is_empty() {
            write_rule(&mut text, rule, &sites, style);
        }
    }
    text
}

/// The findings of one rule.
fn write_rule(text: &mut String, rule: &Rule, sites: &[&Finding], style: Style) {
    let fails = sites.iter().any(|site| site.fails(style.strict));
    if !rule.class.fails() && !style.strict && !style.all {
        let _ = writeln!(text, "  {}  {}  {}: {} sites", rule.class.name(), rule.id, rule.title, sites.len());
        return;
    }
    let title = format!("{}  {}  {}", rule.class.name(), rule.id, rule.title);
    let _ = writeln!(text, "  {} ({}): {}", painted(&title, fails, style), origin(rule), rule.why);
    let _ = writeln!(text, "    instead: {}", rule.instead);
    let shown = if style.all { sites.len() } else { SITES };
    for site in sites.iter().take(shown) {
        let _ = writeln!(text, "    {}", line(site));
    }
    if let Some(more) = sites.len().checked_sub(shown).filter(|more| *more > 0) {
        let _ = writeln!(text, "    and {more} more; --all shows them");
    }
}

/// Where a rule comes from and what it touches.
pub fn origin(rule: &Rule) -> String {
    let requirement = rule.requirement.name();
    rule.number.map_or_else(|| requirement.to_owned(), |number| format!("{number} of 18, {requirement}"))
}

/// One finding as a line.
fn line(finding: &Finding) -> String {
    let hit = &finding.hit;
    let place = finding.place.as_ref().map_or_else(|| format!("in {}", hit.region), ToString::to_string);
    let mut line = format!("{:#018x}  {:<24}  {}", hit.address, hit.text, harmless(&place));
    if hit.hidden {
        line += "  hidden at offset";
    }
    if let Some(reason) = &finding.allowed {
        let _ = write!(line, "  allowed: {}", harmless(reason));
    }
    line
}

/// A title in the colour of its verdict.
fn painted(title: &str, fails: bool, style: Style) -> String {
    match (style.colours, fails) {
        (false, _) => title.to_owned(),
        (true, true) => format!("\x1b[31m{title}\x1b[0m"),
        (true, false) => format!("\x1b[33m{title}\x1b[0m"),
    }
}

/// How often each rule was found in all programs; nothing when none was.
pub fn summary(reports: &[Report]) -> String {
    let mut text = String::new();
    for class in Class::ALL {
        for rule in RULES.iter().filter(|rule| rule.class == class) {
            let of_rule = || reports.iter().flat_map(|report| &report.findings).filter(|f| f.hit.rule == rule);
            let open = of_rule().filter(|finding| finding.allowed.is_none() && !finding.hit.hidden).count();
            let allowed = of_rule().filter(|finding| finding.allowed.is_some()).count();
            let hidden = of_rule().filter(|finding| finding.allowed.is_none() && finding.hit.hidden).count();
            if open + allowed + hidden > 0 {
                let requirement = rule.requirement.name();
                let _ = writeln!(
                    text,
                    "{:<7} {:<17} {requirement:<8} {open:>8} {allowed:>8} {hidden:>8}",
                    class.name(),
                    rule.id
                );
            }
        }
    }
    if text.is_empty() {
        return text;
    }
    format!("\n{:<7} {:<17} {:<8} {:>8} {:>8} {:>8}\n{text}", "class", "rule", "touches", "found", "allowed", "hidden")
}
