use serde_json::{Value, json};

use super::allow::{self, Allowance};
use super::rules::{Class, RULES, find};
use super::{Report, audit, json, sarif, text};
use crate::elf::tests::ElfBuilder;

const BASE: u64 = 0xffff_ffff_8000_0000;

/// One instance of each listed instruction, in the encodings of Intel SDM volume 2 and AMD APM
/// volume 3: rule, bytes.
const PLANTED: &[(&str, &[u8])] = &[
    ("sgdt", &[0x0f, 0x01, 0x00]),
    ("sidt", &[0x0f, 0x01, 0x08]),
    ("sldt", &[0x0f, 0x00, 0xc0]),
    ("smsw", &[0x0f, 0x01, 0xe0]),
    ("pushf", &[0x9c]),
    ("pushf", &[0x66, 0x9c]),
    ("popf", &[0x9d]),
    ("popf", &[0x66, 0x9d]),
    ("lar", &[0x0f, 0x02, 0xc1]),
    ("lsl", &[0x0f, 0x03, 0xc1]),
    ("verr", &[0x0f, 0x00, 0xe0]),
    ("verw", &[0x0f, 0x00, 0xe8]),
    ("pop-seg", &[0x0f, 0xa1]),
    ("pop-seg", &[0x0f, 0xa9]),
    ("pop-seg", &[0x66, 0x0f, 0xa1]),
    ("push-seg", &[0x0f, 0xa0]),
    ("push-seg", &[0x0f, 0xa8]),
    ("call-far", &[0xff, 0x18]),
    ("call-far", &[0x48, 0xff, 0x18]),
    ("jmp-far", &[0xff, 0x28]),
    ("jmp-far", &[0x48, 0xff, 0x28]),
    ("int", &[0xcd, 0x80]),
    ("int", &[0xcd, 0x03]),
    ("ret-far", &[0xcb]),
    ("ret-far", &[0xca, 0x08, 0x00]),
    ("ret-far", &[0x48, 0xcb]),
    ("iret", &[0xcf]),
    ("iret", &[0x48, 0xcf]),
    ("str", &[0x0f, 0x00, 0xc8]),
    ("mov-seg", &[0x8c, 0xd8]),
    ("mov-seg", &[0x8c, 0x08]),
    ("mov-seg", &[0x8e, 0xd0]),
    ("mov-seg", &[0x48, 0x8e, 0xe0]),
    ("mov-seg", &[0x0f, 0xb2, 0x00]),
    ("mov-seg", &[0x0f, 0xb4, 0x00]),
    ("mov-seg", &[0x0f, 0xb5, 0x00]),
    ("cpuid", &[0x0f, 0xa2]),
    ("tsc-aux", &[0x0f, 0x01, 0xf9]),
    ("tsc-aux", &[0xf3, 0x0f, 0xc7, 0xf8]),
    ("rdpru", &[0x0f, 0x01, 0xfd]),
    ("timed-wait", &[0xf3, 0x0f, 0xae, 0xf0]),
    ("timed-wait", &[0xf2, 0x0f, 0xae, 0xf0]),
    ("timed-wait", &[0x66, 0x0f, 0xae, 0xf0]),
    ("timed-wait", &[0x0f, 0x01, 0xfa]),
    ("timed-wait", &[0x0f, 0x01, 0xfb]),
    ("rdpmc", &[0x0f, 0x33]),
    ("load-table", &[0x0f, 0x01, 0x10]),
    ("load-table", &[0x0f, 0x01, 0x18]),
    ("load-table", &[0x0f, 0x00, 0xd0]),
    ("load-table", &[0x0f, 0x00, 0xd8]),
    ("control-register", &[0x0f, 0x20, 0xc0]),
    ("control-register", &[0x0f, 0x22, 0xd8]),
    ("control-register", &[0x0f, 0x01, 0xf0]),
    ("control-register", &[0x0f, 0x06]),
    ("debug-register", &[0x0f, 0x21, 0xf8]),
    ("debug-register", &[0x0f, 0x23, 0xf8]),
    ("msr", &[0x0f, 0x32]),
    ("msr", &[0x0f, 0x30]),
    ("tlb", &[0x0f, 0x01, 0x38]),
    ("tlb", &[0x66, 0x0f, 0x38, 0x82, 0x00]),
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("sysret", &[0x48, 0x0f, 0x07]),
    ("sysret", &[0x48, 0x0f, 0x35]),
    ("sysenter", &[0x0f, 0x34]),
    ("hlt", &[0xf4]),
    ("hlt", &[0x0f, 0x01, 0xc8]),
    ("hlt", &[0x0f, 0x01, 0xc9]),
    ("cli-sti", &[0xfa]),
    ("cli-sti", &[0xfb]),
    ("stac", &[0x0f, 0x01, 0xcb]),
    ("stac", &[0x0f, 0x01, 0xca]),
    ("io", &[0xe4, 0x42]),
    ("io", &[0xec]),
    ("io", &[0xe7, 0x43]),
    ("io", &[0xee]),
    ("io", &[0xf3, 0x6c]),
    ("io", &[0x6f]),
    ("cache", &[0x0f, 0x09]),
    ("cache", &[0xf3, 0x0f, 0x09]),
    ("cache", &[0x0f, 0x08]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("xsetbv", &[0x48, 0x0f, 0xc7, 0x28]),
    ("disabled", &[0x0f, 0x01, 0xee]),
    ("disabled", &[0x0f, 0x01, 0xef]),
    ("disabled", &[0x0f, 0x01, 0xc1]),
    ("disabled", &[0x0f, 0x01, 0xd9]),
    ("disabled", &[0x0f, 0x01, 0xd7]),
    ("rdtsc", &[0x0f, 0x31]),
    ("fsgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc0]),
    ("fsgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc8]),
    ("fsgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd0]),
    ("fsgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd8]),
    ("xgetbv", &[0x0f, 0x01, 0xd0]),
    ("icebp", &[0xf1]),
    ("cache-line", &[0x0f, 0xae, 0x38]),
    ("cache-line", &[0x66, 0x0f, 0xae, 0x38]),
    ("cache-line", &[0x66, 0x0f, 0xae, 0x30]),
    ("cache-line", &[0x0f, 0x01, 0xfc]),
    ("cache-hint", &[0x0f, 0x18, 0x08]),
    ("cache-hint", &[0x0f, 0xc3, 0x00]),
    ("entropy", &[0x0f, 0xc7, 0xf0]),
    ("entropy", &[0x0f, 0xc7, 0xf8]),
    ("tsx", &[0xc7, 0xf8, 0x00, 0x00, 0x00, 0x00]),
    ("tsx", &[0x0f, 0x01, 0xd5]),
    ("tsx", &[0x0f, 0x01, 0xd6]),
];

/// Ordinary instructions, among them the calls of the ABI and those whose encodings differ from
/// sensitive ones in a bit: moves, near calls, `syscall`, `int3`, `ud2`, `pause`, `xsave64`.
const ORDINARY: &[&[u8]] = &[
    &[0x48, 0x89, 0xe5],
    &[0xb8, 0x01, 0x00, 0x00, 0x00],
    &[0x0f, 0x05],
    &[0xcc],
    &[0x0f, 0x0b],
    &[0xf3, 0x90],
    &[0x48, 0x0f, 0xae, 0x20],
    &[0xff, 0x10],
    &[0xff, 0x20],
    &[0xe8, 0x00, 0x00, 0x00, 0x00],
    &[0x55],
    &[0x5d],
    &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0xae, 0xe8],
    &[0xf0, 0x48, 0x0f, 0xb1, 0x11],
    &[0xc3],
];

/// An ELF file that holds nothing but this code.
fn elf(code: &[u8]) -> Vec<u8> {
    let loads = vec![(BASE, 5, code.to_vec(), code.len() as u64)];
    ElfBuilder { loads, ..ElfBuilder::default() }.build()
}

fn run(code: &[u8], allowances: &[Allowance], every_offset: bool) -> Report {
    audit("test", "folder/test file", &elf(code), allowances, every_offset).unwrap()
}

fn found(report: &Report) -> Vec<(u64, &'static str)> {
    report.findings.iter().map(|finding| (finding.hit.address, finding.hit.rule.id)).collect()
}

fn allowance(rule: &str, symbol: Option<&str>) -> Allowance {
    Allowance { rules: vec![rule.to_owned()], symbol: symbol.map(str::to_owned), reason: "it is meant".to_owned() }
}

#[test]
fn every_listed_instruction_is_found_at_its_address_with_its_rule() {
    let mut code = Vec::new();
    let mut expected = Vec::new();
    for (index, (rule, bytes)) in PLANTED.iter().enumerate() {
        code.extend(ORDINARY[index % ORDINARY.len()]);
        expected.push((BASE + code.len() as u64, *rule));
        code.extend(*bytes);
    }
    assert_eq!(found(&run(&code, &[], false)), expected);
}

#[test]
fn every_rule_has_a_planted_instance() {
    for rule in RULES {
        assert!(PLANTED.iter().any(|(id, _)| *id == rule.id), "{}", rule.id);
    }
}

#[test]
fn nothing_is_found_in_ordinary_code() {
    let report = run(&ORDINARY.concat(), &[], false);
    assert_eq!(found(&report), []);
    assert_eq!(report.instructions, ORDINARY.len() as u64);
}

#[test]
fn an_instruction_inside_an_immediate_is_found_at_every_offset_only() {
    // mov eax, 0x90c3a20f: its immediate is cpuid, ret, nop.
    let code = [0xb8, 0x0f, 0xa2, 0xc3, 0x90, 0xc3];
    assert_eq!(found(&run(&code, &[], false)), []);
    let report = run(&code, &[], true);
    assert_eq!(found(&report), [(BASE + 1, "cpuid")]);
    assert!(report.findings[0].hit.hidden);
    assert_eq!((report.failures(false), report.failures(true)), (0, 1));
}

#[test]
fn an_instruction_that_stands_openly_is_not_hidden_at_every_offset() {
    let report = run(&[0x0f, 0xa2, 0xc3], &[], true);
    assert_eq!(found(&report), [(BASE, "cpuid")]);
    assert!(!report.findings[0].hit.hidden);
}

#[test]
fn decoding_goes_on_behind_bytes_that_are_no_instruction() {
    assert_eq!(found(&run(&[0x06, 0x0f, 0xff, 0xff, 0xf4], &[], false)), [(BASE + 4, "hlt")]);
}

#[test]
fn only_noted_instructions_pass() {
    for (rule, bytes) in PLANTED {
        let fails = find(rule).unwrap().class != Class::Noted;
        assert_eq!(run(bytes, &[], false).failures(false), usize::from(fails), "{rule}");
        assert_eq!(run(bytes, &[], false).failures(true), 1, "{rule}");
    }
}

#[test]
fn data_is_not_decoded() {
    let loads = vec![(BASE, 5, vec![0xc3], 1), (BASE + 0x1000, 6, vec![0xf4], 1), (BASE + 0x2000, 4, vec![0xf4], 1)];
    let elf = ElfBuilder { loads, ..ElfBuilder::default() }.build();
    assert_eq!(found(&audit("test", "test", &elf, &[], true).unwrap()), []);
}

#[test]
fn an_allowed_site_passes_and_keeps_its_reason() {
    let report = run(&[0xf4, 0xfa], &[allowance("hlt", None)], false);
    assert_eq!(report.failures(true), 1);
    assert_eq!(report.findings[0].allowed.as_deref(), Some("it is meant"));
    assert_eq!(report.findings[1].allowed, None);
    assert!(report.stale.is_empty());
}

#[test]
fn an_allowance_that_matches_nothing_is_stale() {
    // A wrong rule; a symbol that the program does not have.
    let report = run(&[0xf4], &[allowance("cpuid", None), allowance("hlt", Some("main"))], false);
    assert_eq!(report.stale, ["`cpuid` anywhere", "`hlt` in `main`"]);
    assert_eq!(report.failures(false), 1);
    assert!(crate::cmd::audit::complaints(&[report], false).unwrap().contains("HV-AUD-002"));
}

#[test]
fn an_allowance_reaches_a_function_or_a_module_but_no_longer_name() {
    let mut report = run(&[0xf4], &[], false);
    let finding = &mut report.findings[0];
    finding.place =
        Some(crate::decode::Place { symbol: "guest::probe::halt".to_owned(), offset: 0, frames: Vec::new() });
    for (symbol, reached) in [("guest::probe::halt", true), ("guest::probe", true), ("guest::pro", false)] {
        finding.allowed = None;
        let stale = allow::apply(&[allowance("hlt", Some(symbol))], std::slice::from_mut(finding));
        assert_eq!((finding.allowed.is_some(), stale.is_empty()), (reached, reached), "{symbol}");
    }
}

#[test]
fn allowances_are_read_and_misspelt_ones_are_refused() {
    let good =
        json!([{ "rules": ["hlt", "popf"], "symbol": "a::b", "reason": "why" }, { "rules": ["int"], "reason": "x" }]);
    let read = allow::read(Some(&good)).unwrap();
    assert_eq!(read[0].rules, ["hlt", "popf"]);
    assert_eq!((read[0].symbol.as_deref(), read[0].reason.as_str(), &read[1].symbol), (Some("a::b"), "why", &None));
    assert_eq!(allow::read(None).unwrap(), []);
    for (bad, complaint) in [
        (json!({}), "a list"),
        (json!([{ "rules": ["hlt"] }]), "`reason`"),
        (json!([{ "rules": ["hlt"], "reason": " " }]), "`reason`"),
        (json!([{ "rules": [], "reason": "x" }]), "at least one"),
        (json!([{ "rules": ["halt"], "reason": "x" }]), "no rule `halt`"),
        (json!([{ "rule": ["hlt"], "reason": "x" }]), "`rule` is not a key"),
        (json!([{ "rules": ["hlt"], "symbol": 1, "reason": "x" }]), "`symbol`"),
    ] {
        let said = allow::read(Some(&bad)).unwrap_err();
        assert!(said.contains(complaint), "{bad}: {said}");
    }
}

#[test]
fn what_is_no_program_for_this_machine_is_refused() {
    let refusal = |elf: &[u8]| audit("test", "test", elf, &[], false).unwrap_err().0;
    assert!(refusal(b"#!/bin/sh").contains("not an ELF file"));
    let arm = ElfBuilder { machine: 183, ..ElfBuilder::default() };
    assert!(refusal(&arm.build()).contains("x86-64"));
    let narrow = ElfBuilder { class: 1, ..ElfBuilder::default() };
    assert!(refusal(&narrow.build()).contains("64-bit"));
    let empty = ElfBuilder { loads: Vec::new(), ..ElfBuilder::default() };
    assert!(refusal(&empty.build()).contains("code"));
    let whole = elf(&[0xf4]);
    assert!(refusal(&whole[..40]).contains("damaged"));
}

#[test]
fn text_groups_by_rule_and_counts() {
    let report = run(&[0xf4, 0xfa, 0xf4, 0x0f, 0x31], &[allowance("cli-sti", None)], false);
    let style = text::Style { colours: false, all: false, strict: false };
    let shown = text::report(&report, style);
    assert_eq!(shown.matches("fault  hlt").count(), 1, "{shown}");
    assert!(shown.contains("0xffffffff80000000  hlt"), "{shown}");
    assert!(shown.contains("cli") && shown.contains("allowed: it is meant"), "{shown}");
    assert!(shown.contains("noted  rdtsc  RDTSC: 1 sites"), "{shown}");
    let summary = text::summary(&[report]);
    let rows: Vec<Vec<&str>> = summary.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["fault", "hlt", "3A", "2", "0", "0"]), "{summary}");
    assert!(rows.contains(&vec!["fault", "cli-sti", "3A", "0", "1", "0"]), "{summary}");
}

#[test]
fn json_holds_programs_findings_and_rules() {
    let report = run(&[0xf4, 0xfa], &[allowance("hlt", None), allowance("cpuid", None)], false);
    let document = json::document(&[report], false);
    assert_eq!((&document["failures"], &document["stale"]), (&json!(1), &json!(1)));
    let program = &document["programs"][0];
    assert_eq!((&program["name"], &program["instructions"]), (&json!("test"), &json!(2)));
    let first = &program["findings"][0];
    assert_eq!(first["rule"], "hlt");
    assert_eq!(first["address"], "0xffffffff80000000");
    assert_eq!((&first["allowed"], &first["fails"]), (&json!("it is meant"), &json!(false)));
    assert_eq!(program["findings"][1]["fails"], true);
    let rules = document["rules"].as_array().unwrap();
    assert_eq!(rules.len(), RULES.len());
    assert!(rules.iter().any(|rule| rule["id"] == "sgdt" && rule["number"] == 1 && rule["requirement"] == "3B"));
}

#[test]
fn sarif_has_what_the_format_demands() {
    let mut report = run(&[0xf4, 0xfa, 0x0f, 0x31], &[allowance("hlt", None), allowance("cpuid", None)], false);
    let frame =
        crate::decode::symbols::Frame { function: "main".to_owned(), line: "src/a b.rs:7".to_owned(), foreign: false };
    report.findings[1].place = Some(crate::decode::Place { symbol: "main".to_owned(), offset: 0, frames: vec![frame] });
    let document = sarif::document(&[report]);
    assert_eq!(document["version"], "2.1.0");
    assert!(document["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
    let run = &document["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        // Required by the format, or by its rules on references (3.27.5 to 3.27.11).
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()));
        assert!(result["message"]["text"].as_str().is_some_and(|text| text.ends_with('.')));
        assert!(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].is_string());
        assert!(result["locations"][0]["physicalLocation"]["address"]["absoluteAddress"].is_u64());
    }
    assert_eq!(results[0]["suppressions"][0]["justification"], "it is meant");
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "folder/test%20file");
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"], Value::Null);
    assert_eq!(results[1]["suppressions"], Value::Null);
    assert_eq!(results[1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], "src/a%20b.rs");
    assert_eq!(results[1]["locations"][0]["physicalLocation"]["region"]["startLine"], 7);
    assert_eq!(results[1]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], "main");
    assert_eq!(results[2]["level"], "note");
    let notes = run["invocations"][0]["toolConfigurationNotifications"].as_array().unwrap();
    assert!(notes[0]["message"]["text"].as_str().unwrap().contains("`cpuid`"));
}
