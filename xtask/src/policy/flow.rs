//! From which VM information can reach which: directly by one operation, or through others.

use std::collections::VecDeque;

use protocol::VmId;
use protocol::policy::{Decision, Operation, Policy, Role, Rule, Subject, allows, rule};

/// Why information can go from one VM straight to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// The labels allow it.
    Labels,
    /// A trusted VM may do it.
    Trust,
    /// The receiver reads the audit log, in which the sender's deeds stand.
    Audit,
}

/// The flows of a policy.
#[derive(Debug)]
pub struct Flows {
    /// For each pair the means, sender first.
    direct: Vec<Vec<Option<Means>>>,
}

impl Flows {
    /// All flows that any operation of a policy allows.
    pub fn of(policy: &Policy) -> Flows {
        let row = |from: &Subject| policy.subjects.iter().map(|to| means(from, to)).collect();
        Flows { direct: policy.subjects.iter().map(row).collect() }
    }

    /// How information gets straight from one VM to another.
    pub fn direct(&self, from: VmId, to: VmId) -> Option<Means> {
        self.direct.get(from.0 as usize)?.get(to.0 as usize).copied().flatten()
    }

    /// A shortest way for information from one VM to another, both included.
    pub fn path(&self, from: VmId, to: VmId) -> Option<Vec<VmId>> {
        let mut before: Vec<Option<VmId>> = vec![None; self.direct.len()];
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front() {
            for next in self.numbers().filter(|next| *next != from && self.direct(at, *next).is_some()) {
                if let Some(slot) = before.get_mut(next.0 as usize).filter(|slot| slot.is_none()) {
                    *slot = Some(at);
                    queue.push_back(next);
                }
            }
        }
        let mut path = vec![to];
        let mut at = to;
        while at != from {
            at = before.get(at.0 as usize).copied().flatten()?;
            path.insert(0, at);
        }
        (path.len() > 1).then_some(path)
    }

    /// All pairs of different VMs between which information can flow, however far.
    pub fn pairs(&self) -> Vec<(VmId, VmId)> {
        let pairs = self.numbers().flat_map(|from| self.numbers().map(move |to| (from, to)));
        pairs.filter(|(from, to)| self.path(*from, *to).is_some()).collect()
    }

    fn numbers(&self) -> impl Iterator<Item = VmId> + use<> {
        (0..u32::try_from(self.direct.len()).unwrap_or(0)).map(VmId)
    }
}

/// How information gets straight from one VM to another.
fn means(from: &Subject, to: &Subject) -> Option<Means> {
    if from.name == to.name {
        return None;
    }
    let carried = Operation::ALL.iter().flat_map(|operation| {
        let outward = allows(from, *operation, to);
        let inward = allows(to, *operation, from);
        match rule(*operation) {
            Rule::SubjectToObject => [outward, Decision::Refused],
            Rule::ObjectToSubject => [inward, Decision::Refused],
            Rule::Equal => [outward, inward],
            Rule::Own | Rule::Role(_) => [Decision::Refused; 2],
        }
    });
    let by_decision = carried.filter_map(|decision| match decision {
        Decision::ByRule => Some(Means::Labels),
        Decision::ByTrust => Some(Means::Trust),
        Decision::Refused => None,
    });
    let by_audit = to.roles.contains(&Role::Auditor).then_some(Means::Audit);
    by_decision.chain(by_audit).min()
}
