//! Every key of a policy file, with a value that is taken and one that is not; what compiles to the
//! same bytes; what follows from a policy.

use hv_core::policy::Monitor;
use protocol::VmId;
use protocol::label::Label;
use protocol::policy::{
    Decision, Hardware, OnFull, Operation, Policy, Profile, Role, Rule, Subject, Trust, allows, rule,
};

use super::compile::compile;
use super::explain::{explain, refusal};
use super::flow::{Flows, Means};
use super::read::{Names, PolicyFile, read};
use super::{encode, graph};
use crate::error::codes::{self, Code};
use crate::system::document::{ConfigError, Source};

/// Three VMs: two that are kept apart, and a trusted one between them.
const GOOD: &str = r#"profile = "shared"
hardware = "strict"
expected-flows = ["low -> high", "low -> guard", "guard -> high", "high -> guard", "guard -> low", "high -> low"]
[levels]
secrecy = ["public", "secret"]
integrity = ["user", "system"]
[categories]
secrecy = ["blue", "red"]
integrity = ["signed"]
[audit]
on-full = "halt-offender"
[[vm]]
name = "low"
label = { secrecy = "public", integrity = "user" }
roles = ["operator"]
audit-share = 50
[[vm]]
name = "high"
label = { secrecy = "secret", secrecy-categories = ["red"], integrity = "user" }
[[vm]]
name = "guard"
label = { secrecy = "secret", secrecy-categories = ["red"] }
[[trusted]]
vm = "guard"
low = { secrecy = "public" }
high = { secrecy = "secret", secrecy-categories = ["red"] }
operations = ["grant-create-read", "grant-map-read"]
[[flow]]
from = "low"
to = "high"
[[expect]]
from = "low"
to = "high"
operation = "event-send"
allowed = true
"#;

const STRICT: &str = r#"profile = "strict"
[levels]
secrecy = ["public", "secret"]
[partition]
frame = "11ms"
[[partition.slot]]
vms = ["low"]
duration = "10ms"
[[partition.slot]]
vms = ["guard", "high"]
duration = "500us"
[[partition.slot]]
duration = "500us"
[[vm]]
name = "low"
label = {}
[[vm]]
name = "high"
label = { secrecy = "secret" }
[[vm]]
name = "guard"
label = { secrecy = "secret" }
"#;

fn vms() -> Vec<String> {
    ["low", "high", "guard"].map(String::from).to_vec()
}

fn compiled(text: &str) -> Result<(PolicyFile, Policy), Vec<ConfigError>> {
    let file = read(Source { file: "x.policy.toml", text })?;
    let policy = compile(&file, &vms())?;
    Ok((file, policy))
}

fn good(text: &str) -> Policy {
    compiled(text).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")).unwrap().1
}

/// The only error of a text in which one thing was replaced.
fn refused(base: &str, from: &str, to: &str, code: &Code) -> ConfigError {
    assert!(base.contains(from), "{from}");
    let text = base.replacen(from, to, 1);
    let errors = compiled(&text).expect_err(to);
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 1, "{all:#?}");
    assert_eq!(errors[0].code.id, code.id, "{all:#?}");
    assert!(errors[0].to_string().contains("x.policy.toml"), "{all:#?}");
    errors[0].clone()
}

#[test]
fn every_key_reaches_the_compiled_policy() {
    let policy = good(GOOD);
    assert_eq!((policy.hardware, policy.on_full), (Hardware::Strict, OnFull::HaltOffender));
    assert_eq!(policy.profile, Profile::Shared);
    assert_eq!(policy.flows, [[VmId(0), VmId(1)]]);
    let [low, high, guard] = policy.subjects.as_slice() else { unreachable!() };
    assert_eq!((low.roles.as_slice(), low.audit_share), ([Role::Operator].as_slice(), 50));
    assert_eq!(high.label, Label { secrecy_level: 1, secrecy_categories: 0b10, ..Label::default() });
    assert_eq!(high.label_text, "secret {red} / user");
    assert_eq!((high.roles.len(), high.audit_share), (0, 100));
    let trust = guard.trust.as_ref().unwrap();
    assert_eq!((trust.low, trust.high), (Label::default(), high.label));
    assert_eq!(trust.operations, [Operation::GrantCreateRead, Operation::GrantMapRead]);
    let Profile::Strict(schedule) = good(STRICT).profile else { unreachable!() };
    let slots: Vec<(u64, Vec<u32>)> =
        schedule.slots.iter().map(|slot| (slot.duration_ns, slot.vms.iter().map(|vm| vm.0).collect())).collect();
    assert_eq!(slots, [(10_000_000, vec![0]), (500_000, vec![1, 2]), (500_000, vec![])]);
}

#[test]
fn files_that_mean_the_same_compile_to_the_same_bytes() {
    let bytes = |text: &str| encode(&good(text)).unwrap();
    let (first, second) = GOOD.split_at(GOOD.find("[[vm]]\nname = \"high\"").unwrap());
    let (high, rest) = second.split_at(second.find("[[vm]]\nname = \"guard\"").unwrap());
    let (head, low) = first.split_at(first.find("[[vm]]").unwrap());
    let moved = format!("{head}{high}{low}{rest}");
    assert_ne!(moved, GOOD);
    assert_eq!(bytes(&moved), bytes(GOOD));
    let same = [
        ("[\"blue\", \"red\"]", "[\"red\", \"blue\"]"),
        ("[\"grant-create-read\", \"grant-map-read\"]", "[\"grant-map-read\", \"grant-create-read\"]"),
        ("label = { secrecy = \"public\", integrity = \"user\" }", "label = {}"),
        ("hardware = \"strict\"\n", ""),
        (
            "[[flow]]\nfrom = \"low\"\nto = \"high\"\n",
            "[[flow]]\nto = \"high\"\nfrom = \"low\"\n[[flow]]\nfrom = \"low\"\nto = \"high\"\n",
        ),
    ];
    for (from, to) in same {
        assert!(GOOD.contains(from), "{from}");
        assert_eq!(bytes(&GOOD.replacen(from, to, 1)), bytes(GOOD), "{to}");
    }
    let other = GOOD.replacen("audit-share = 50", "audit-share = 51", 1);
    assert_ne!(bytes(&other), bytes(GOOD));
}

#[test]
fn a_key_with_a_bad_value_is_refused_with_its_place() {
    let error = refused(GOOD, "profile = \"shared\"", "profile = \"open\"", codes::BAD_VALUE);
    assert_eq!((error.line, error.key.as_str()), (1, "profile"));
    refused(GOOD, "profile = \"shared\"\n", "", codes::MISSING_KEY);
    refused(GOOD, "hardware = \"strict\"", "hardware = \"any\"", codes::BAD_VALUE);
    refused(GOOD, "\"halt-offender\"", "\"halt\"", codes::BAD_VALUE);
    refused(GOOD, "on-full", "on-empty", codes::UNKNOWN_KEY);
    refused(GOOD, "[[expect]]", "[[expected]]", codes::UNKNOWN_KEY);
    refused(GOOD, "audit-share = 50", "audit-share = 0", codes::BAD_VALUE);
    refused(GOOD, "audit-share = 50", "audit-share = \"50\"", codes::WRONG_TYPE);
    refused(GOOD, "roles = [\"operator\"]", "roles = [\"king\"]", codes::POLICY_WORD);
    refused(GOOD, "\"grant-map-read\"", "\"grant-map\"", codes::POLICY_WORD);
    refused(GOOD, "operation = \"event-send\"", "operation = \"event\"", codes::POLICY_WORD);
    refused(GOOD, "allowed = true", "", codes::MISSING_KEY);
    refused(GOOD, "allowed = true", "allowed = 1", codes::WRONG_TYPE);
    refused(GOOD, "{ secrecy = \"public\" }", "{ secrecy = \"publik\" }", codes::POLICY_NAME);
    refused(GOOD, "integrity = \"user\" }\nroles", "integrity = \"none\" }\nroles", codes::POLICY_NAME);
    refused(GOOD, "label = { secrecy = \"secret\", secrecy-categories = [\"red\"] }", "", codes::MISSING_KEY);
    refused(GOOD, "\"public\", \"secret\"]", "\"public\", \"secret\", \"public\"]", codes::DUPLICATE);
    refused(GOOD, "\"blue\", \"red\"", "\"blue\", \"red\", \"a b\"", codes::BAD_NAME);
    refused(GOOD, "\"signed\"", "\"\"", codes::BAD_NAME);
    refused(GOOD, "\"low -> high\", ", "\"low to high\", ", codes::BAD_VALUE);
    refused(GOOD, "[levels]", "[levels", codes::TOML);
    let many: Vec<String> = (0..17).map(|level| format!("\"l{level}\"")).collect();
    refused(GOOD, "[\"user\", \"system\"]", &format!("[\"user\", {}]", many[1..].join(",")), codes::TOO_MANY);
}

#[test]
fn what_stands_in_different_places_fits_together() {
    let unknown = refused(GOOD, "vm = \"guard\"", "vm = \"gard\"", codes::POLICY_VM);
    assert!(unknown.what.contains("it has: low, high, guard"), "{}", unknown.what);
    let fourth = "[[vm]]\nname = \"low\"\nlabel = {}\n[[vm]]\nname = \"low\"";
    refused(STRICT, "[[vm]]\nname = \"low\"", fourth, codes::DUPLICATE);
    let guard = "[[vm]]\nname = \"guard\"\nlabel = { secrecy = \"secret\" }\n";
    let missing = compiled(&STRICT.replace(guard, "").replace("\"guard\", ", "")).expect_err("missing");
    assert!(missing.iter().any(|error| error.code.id == codes::POLICY_VM.id), "{missing:?}");
    let both = "roles = [\"auditor\", \"security-administrator\"]";
    refused(GOOD, "roles = [\"operator\"]", both, codes::POLICY_ROLES);
    refused(GOOD, "low = { secrecy = \"public\" }", "low = { secrecy-categories = [\"blue\"] }", codes::POLICY_TRUST);
    refused(GOOD, "operations = [\"grant-create-read\", \"grant-map-read\"]", "", codes::POLICY_TRUST);
    refused(GOOD, "\"grant-map-read\"]", "\"grant-map-read\", \"console-read\"]", codes::POLICY_TRUST);
    refused(
        GOOD,
        "[[flow]]\nfrom = \"low\"\nto = \"high\"",
        "[[flow]]\nfrom = \"high\"\nto = \"low\"",
        codes::MAC_REFUSED,
    );
    refused(GOOD, "[[flow]]\nfrom = \"low\"", "[[flow]]\nfrom = \"none\"", codes::POLICY_VM);
    let twice = GOOD.replacen("[[flow]]", "[[trusted]]\nvm = \"guard\"\nlow = {}\nhigh = { secrecy = \"secret\", secrecy-categories = [\"red\"] }\noperations = [\"event-send\"]\n[[flow]]", 1);
    assert_eq!(compiled(&twice).expect_err("twice")[0].code.id, codes::DUPLICATE.id);
}

#[test]
fn more_than_three_trusted_vms_are_refused() {
    let vms: Vec<String> = (0..4).map(|number| format!("vm{number}")).collect();
    let entry = |vm: &String| {
        format!(
            "[[vm]]\nname = \"{vm}\"\nlabel = {{}}\n[[trusted]]\nvm = \"{vm}\"\nlow = {{}}\nhigh = {{}}\noperations = [\"event-send\"]\n"
        )
    };
    let text = |count: usize| format!("profile = \"shared\"\n{}", vms[..count].iter().map(entry).collect::<String>());
    let compiled = |count: usize| {
        let text = text(count);
        compile(&read(Source { file: "x", text: &text }).unwrap(), &vms[..count])
    };
    assert!(compiled(3).is_ok());
    assert_eq!(compiled(4).expect_err("four")[0].code.id, codes::POLICY_TRUST.id);
}

#[test]
fn partitions_fit_the_profile_the_labels_and_the_frame() {
    refused(STRICT, "frame = \"11ms\"", "frame = \"12ms\"", codes::POLICY_PARTITION);
    refused(STRICT, "frame = \"11ms\"", "frame = \"11\"", codes::BAD_VALUE);
    refused(STRICT, "\"10ms\"", "\"10s\"", codes::BAD_VALUE);
    refused(
        STRICT,
        "frame = \"11ms\"\n[[partition.slot]]\nvms = [\"low\"]\nduration = \"10ms\"",
        "",
        codes::POLICY_PARTITION,
    );
    refused(STRICT, "vms = [\"low\"]", "vms = [\"low\", \"high\"]", codes::POLICY_PARTITION);
    refused(STRICT, "vms = [\"low\"]", "vms = [\"low\", \"lo\"]", codes::POLICY_VM);
    refused(STRICT, "profile = \"strict\"", "profile = \"shared\"", codes::POLICY_PARTITION);
    refused(GOOD, "profile = \"shared\"", "profile = \"strict\"", codes::POLICY_PARTITION);
    refused(STRICT, "duration = \"10ms\"\n", "", codes::MISSING_KEY);
}

#[test]
fn a_flow_through_a_guard_must_be_expected_and_nothing_impossible_may_be() {
    let unexpected = refused(GOOD, ", \"high -> low\"", "", codes::MAC_UNEXPECTED);
    assert_eq!(unexpected.what, "high -> guard -> low");
    let trusted = GOOD.find("[[trusted]]").unwrap();
    let flow = GOOD.find("[[flow]]").unwrap();
    let without = format!("{}{}", &GOOD[..trusted], &GOOD[flow..]);
    let errors = compiled(&without).expect_err("impossible");
    let impossible: Vec<&str> = errors.iter().map(|error| error.what.as_str()).collect();
    assert_eq!(impossible, ["nothing can flow from `guard` to `low`", "nothing can flow from `high` to `low`"]);
    assert!(errors.iter().all(|error| error.code.id == codes::MAC_IMPOSSIBLE.id));
    refused(GOOD, "\"low -> high\"", "\"low -> high\", \"low -> hihg\"", codes::POLICY_VM);
}

#[test]
fn flows_say_by_what_means_and_on_which_way() {
    let flows = Flows::of(&good(GOOD));
    let [low, high, guard] = [0, 1, 2].map(VmId);
    assert_eq!(flows.direct(low, high), Some(Means::Labels));
    assert_eq!(flows.direct(high, low), None);
    assert_eq!(flows.direct(guard, low), Some(Means::Trust));
    assert_eq!(flows.path(high, low), Some(vec![high, guard, low]));
    assert_eq!(flows.direct(low, low), None);
    let auditor = good(&GOOD.replacen("\"operator\"", "\"auditor\"", 1));
    assert_eq!(Flows::of(&auditor).direct(high, low), Some(Means::Audit));
}

#[test]
fn an_explanation_names_labels_rule_and_every_obstacle() {
    let (file, policy) = compiled(GOOD).unwrap();
    let [low, high, guard] = policy.subjects.as_slice() else { unreachable!() };
    let line = refusal(high, Operation::GrantCreateRead, low);
    assert_eq!(line, "high -> low, grant-create-read, rule subject-flows-to-object");
    let lines = explain(&file.names, high, Operation::GrantCreateRead, low);
    assert_eq!(lines[..2], ["high: secret {red} / user", "low: public / user"]);
    assert_eq!(
        lines[3..],
        [
            "secrecy would fall: secret of `high` is above public of `low`",
            "`low` does not have the secrecy category red of `high`"
        ]
    );
    assert_eq!(explain(&file.names, low, Operation::EventSend, high)[3..], ["it holds"]);
    let trusted = explain(&file.names, low, Operation::GrantMapRead, guard);
    assert!(trusted.last().unwrap().starts_with("but one of them is trusted"));
    let role = explain(&file.names, high, Operation::HaltAll, high);
    assert_eq!(role.last().unwrap(), "`high` is no operator");
    let own = explain(&file.names, high, Operation::ConsoleRead, low);
    assert_eq!(own.last().unwrap(), "`low` is not `high`");
}

#[test]
fn a_refusal_always_has_an_obstacle_and_a_permission_none() {
    let (file, policy) = compiled(GOOD).unwrap();
    for subject in &policy.subjects {
        for object in &policy.subjects {
            for operation in Operation::ALL {
                let lines = explain(&file.names, subject, *operation, object);
                let holds = lines.last().unwrap() == "it holds";
                assert_eq!(holds, allows(subject, *operation, object) == Decision::ByRule, "{lines:?}");
                assert!(lines.len() > 3, "{lines:?}");
            }
        }
    }
}

/// VMs with all labels of a small lattice, one of them trusted with everything up to the highest.
fn small_lattice() -> Policy {
    let bits = |number: u64, at: u32, mask: u64| number >> at & mask;
    let subject = |number: u64| Subject {
        name: format!("vm{number}"),
        label: Label {
            secrecy_level: bits(number, 0, 1) as u8,
            secrecy_categories: bits(number, 1, 3),
            integrity_level: bits(number, 3, 1) as u8,
            integrity_categories: bits(number, 4, 1),
        },
        label_text: "any".into(),
        roles: if number == 3 { vec![Role::Auditor, Role::Operator] } else { Vec::new() },
        trust: None,
        audit_share: 1,
    };
    let mut policy = Policy { subjects: (0..32).map(subject).collect(), ..good(GOOD) };
    let label = |number: usize| policy.subjects[number].label;
    let between = Operation::ALL
        .iter()
        .copied()
        .filter(|operation| matches!(rule(*operation), Rule::Equal | Rule::SubjectToObject | Rule::ObjectToSubject));
    let trust = Trust { low: label(0b1_1000), high: label(0b0_0111), operations: between.collect() };
    policy.subjects[0].trust = Some(trust);
    policy.flows.clear();
    policy
}

#[test]
fn what_is_explained_is_what_the_monitor_decides_in_every_cell() {
    let policy = small_lattice();
    let monitor = Monitor::new(policy.clone(), [0; 32]);
    let numbered = || (0..).map(VmId).zip(&policy.subjects);
    let pairs = numbered().flat_map(|subject| numbered().map(move |object| (subject, object)));
    let mut refusals = 0;
    for ((subject, acting), (object, reached)) in pairs {
        for operation in Operation::ALL {
            let lines = explain(&Names::default(), acting, *operation, reached);
            let last = lines.last().unwrap();
            let is_allowed = last == "it holds" || last.starts_with("but one of them is trusted");
            let decision = monitor.decide(subject, *operation, object);
            assert_eq!(decision.is_ok(), is_allowed, "{lines:?}");
            refusals += usize::from(decision.is_err());
        }
    }
    assert!(refusals > 5_000 && refusals < 15_000, "{refusals}");
}

#[test]
fn the_drawing_has_a_box_for_each_label_and_escapes_names() {
    let (file, policy) = compiled(GOOD).unwrap();
    let svg = graph::svg("a<b", &policy, &file.names);
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("class=\"box\"").count(), 3);
    assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
    assert!(svg.contains("(trusted)") && svg.contains("secret {red} / user"));
    // One line of each kind stands in the legend; high reaches low only through the guard.
    assert_eq!(svg.matches("<line class=\"through\"").count(), 2);
    assert_eq!(svg.matches("<line class=\"trust\"").count(), 2);
}

#[test]
fn labels_without_names_are_shown_as_numbers() {
    let label = Label { secrecy_level: 3, secrecy_categories: 0b101, integrity_level: 0, integrity_categories: 0 };
    assert_eq!(Names::default().words(label), "3 {0,2} / 0");
    let wide = Label { secrecy_categories: u64::MAX, ..label };
    assert_eq!(Names::default().short(wide).len(), 63);
}
