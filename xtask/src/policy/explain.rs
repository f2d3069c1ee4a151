//! Says in words what the policy decides and why.

use protocol::policy::{Decision, Operation, Rule, Subject, allows, rule};

use super::read::Names;

/// A rule in words.
pub fn words(rule: Rule) -> String {
    match rule {
        Rule::Equal => "the labels must be equal, since information flows both ways".to_owned(),
        Rule::SubjectToObject => "information must be allowed to flow from the first VM to the second".to_owned(),
        Rule::ObjectToSubject => "information must be allowed to flow from the second VM to the first".to_owned(),
        Rule::Own => "a VM does this to itself only".to_owned(),
        Rule::Role(role) => format!("the first VM must hold the role {}", role.name()),
    }
}

/// The name of a rule.
pub fn name(rule: Rule) -> String {
    match rule {
        Rule::Equal => "equal-labels".to_owned(),
        Rule::SubjectToObject => "subject-flows-to-object".to_owned(),
        Rule::ObjectToSubject => "object-flows-to-subject".to_owned(),
        Rule::Own => "own".to_owned(),
        Rule::Role(role) => format!("role-{}", role.name()),
    }
}

/// A refusal in one line: who, whom, operation, rule.
pub fn refusal(subject: &Subject, operation: Operation, object: &Subject) -> String {
    format!("{} -> {}, {}, rule {}", subject.name, object.name, operation.name(), name(rule(operation)))
}

/// Why the labels do or do not let information flow: one sentence for each obstacle.
pub fn obstacles(names: &Names, from: &Subject, to: &Subject) -> Vec<String> {
    let (a, b) = (from.label, to.label);
    let mut found = Vec::new();
    let level = |levels: &[String], level: u8| levels.get(usize::from(level)).cloned().unwrap_or(level.to_string());
    if a.secrecy_level > b.secrecy_level {
        let [high, low] = [a, b].map(|label| level(&names.secrecy, label.secrecy_level));
        found.push(format!("secrecy would fall: {} of `{}` is above {} of `{}`", high, from.name, low, to.name));
    }
    for category in set(a.secrecy_categories & !b.secrecy_categories, &names.secrecy_categories) {
        found.push(format!("`{}` does not have the secrecy category {category} of `{}`", to.name, from.name));
    }
    if a.integrity_level < b.integrity_level {
        let [low, high] = [a, b].map(|label| level(&names.integrity, label.integrity_level));
        found.push(format!("integrity would rise: {} of `{}` is below {} of `{}`", low, from.name, high, to.name));
    }
    for category in set(b.integrity_categories & !a.integrity_categories, &names.integrity_categories) {
        found.push(format!("`{}` does not have the integrity category {category} of `{}`", from.name, to.name));
    }
    found
}

/// The names of the categories in a set.
pub fn set(bits: u64, names: &[String]) -> Vec<String> {
    let bits = (0..64_usize).filter(|bit| bits >> bit & 1 == 1);
    bits.map(|bit| names.get(bit).cloned().unwrap_or_else(|| bit.to_string())).collect()
}

/// The whole explanation, a line each: labels, rule, why.
pub fn explain(names: &Names, subject: &Subject, operation: Operation, object: &Subject) -> Vec<String> {
    let rule = rule(operation);
    let mut lines = vec![
        format!("{}: {}", subject.name, names.words(subject.label)),
        format!("{}: {}", object.name, names.words(object.label)),
        format!("rule {}: {}", name(rule), words(rule)),
    ];
    let decision = allows(subject, operation, object);
    if decision == Decision::ByRule {
        lines.push("it holds".to_owned());
        return lines;
    }
    let forth = || obstacles(names, subject, object);
    let back = || obstacles(names, object, subject);
    lines.extend(match rule {
        Rule::SubjectToObject => forth(),
        Rule::ObjectToSubject => back(),
        Rule::Equal => [forth(), back()].concat(),
        Rule::Own => vec![format!("`{}` is not `{}`", object.name, subject.name)],
        Rule::Role(role) => vec![format!("`{}` is no {}", subject.name, role.name())],
    });
    if decision == Decision::ByTrust {
        lines.push("but one of them is trusted with this operation, and the other lies in its range".to_owned());
    }
    lines
}
