use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::assemble::{Artifacts, Missing, assemble};
use super::document::{ConfigError, Source, parse_size};
use super::processor::{follow_profile, warnings};
use super::xen::Initrd;
use super::{Artifact, System, parse};
use crate::elf::tests::{ElfBuilder, note};
use crate::error::codes::{self, Code};
use crate::host::debian::Flavour;
use crate::kernel::xen::tests::XenElf;
use protocol::manifest::Personality;
use protocol::policy::{Profile, Schedule};
use protocol::processor::{FEATURES, Model, PortRange, ProcessorFeatures as F, ProcessorPolicy, TimeSource, X86_64_V3};

fn read(text: &str) -> Result<System, Vec<ConfigError>> {
    let source = Source { file: "systems/x.toml", text };
    parse(source, "x", Path::new("/nonexistent"))
}

/// Asserts that the text is refused with one error: its code, its line, its key.
fn refused(text: &str, code: &'static Code, line: usize, key: &str) -> ConfigError {
    let errors = read(text).expect_err("the text is accepted");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let error = errors.into_iter().next().unwrap();
    assert_eq!((error.code.id, error.line, error.key.as_str()), (code.id, line, key), "{error}");
    error
}

const TWO: &str = "\
[[vm]]
name = \"a\"
kernel = \"a\"

[[vm]]
name = \"b\"
kernel = \"b\"
";

#[test]
fn a_whole_system_is_read() {
    let system = read(
        r#"
name = "pair"
[[vm]]
name = "ping"
kernel = "ping"
memory = "32M"
pool = "1M"
vcpus = 2
weight = 200
cap = 50
label = { secrecy = 1, secrecy-categories = [0, 5], integrity = 2 }
on-crash = "restart"
restarts = 5
command-line = "fast"
modules = [{ name = "init", path = "init.bin" }, { name = "sh", program = "programs", bin = "sh" }]
[[vm]]
name = "pong"
path = "pong.elf"
label = { secrecy = 1, secrecy-categories = [0, 5], integrity = 2 }
[[channel]]
name = "table"
between = ["ping", "pong"]
size = "2M"
[test]
expect = ["[ping] done"]
smp = [1, 2]
"#,
    )
    .unwrap();
    assert_eq!(system.name, "pair");
    let ping = &system.vms[0];
    assert_eq!((ping.memory.value, ping.pool_frames, ping.vcpus), (8192, Some(256), 2));
    assert_eq!((ping.weight, ping.cap_percent), (200, 50));
    assert_eq!(ping.label.as_ref().unwrap().value.secrecy_categories, 0b10_0001);
    assert_eq!(ping.on_crash, protocol::manifest::OnCrash::Restart(5));
    assert_eq!(ping.modules[1].source.value, Artifact::Package("programs".into(), Some("sh".into())));
    let pong = &system.vms[1];
    assert_eq!(pong.kernel.value, Artifact::File(PathBuf::from("/nonexistent/pong.elf")));
    assert_eq!((pong.memory.value, pong.vcpus, pong.weight), (4096, 1, 100));
    assert_eq!(system.channels[0].frames, 512);
    assert_eq!(system.test.unwrap().smp, [1, 2]);
}

#[test]
fn a_test_runs_on_each_cpu_model_that_its_table_names() {
    let models = |text: &str| read(&format!("{TWO}[test]\n{text}\n")).unwrap().test.unwrap().cpu;
    assert_eq!(models("cpu = [\"max\", \"max,-umip\"]"), ["max", "max,-umip"]);
    assert_eq!(models("cpu = \"qemu64\""), ["qemu64"]);
    assert_eq!(models(""), ["max"]);
}

#[test]
fn time_is_coarse_in_the_strict_profile_unless_the_file_says_otherwise() {
    let mut system = read(&format!("{TWO}cpu = {{ tsc = \"native\" }}\n")).unwrap();
    let times = |system: &System| system.vms.iter().map(|vm| vm.processor.time).collect::<Vec<_>>();
    follow_profile(&mut system);
    assert_eq!(times(&system), [TimeSource::Native; 2], "the profile is shared");
    assert_eq!(warnings(&system), Vec::<String>::new());
    system.policy.policy.profile = Profile::Strict(Schedule { slots: Vec::new() });
    follow_profile(&mut system);
    assert_eq!(times(&system), [TimeSource::Coarse, TimeSource::Native]);
    let warnings = warnings(&system);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains(&format!("`{}` has `tsc", system.vms[1].name)), "{}", warnings[0]);
}

#[test]
fn the_exact_clock_of_a_xen_vm_is_warned_of_in_the_strict_profile() {
    let mut system = read(&xen("path = \"k\"")).unwrap();
    system.policy.policy.profile = Profile::Strict(Schedule { slots: Vec::new() });
    follow_profile(&mut system);
    assert_eq!(system.vms.iter().map(|vm| vm.processor.time).next_back(), Some(TimeSource::Native));
    let warnings = warnings(&system);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("`x` speaks Xen's ABI"), "{}", warnings[0]);
}

#[test]
fn each_key_of_cpu_is_read() {
    let policy = |line: &str| read(&format!("{TWO}{line}\n")).unwrap().vms[1].processor;
    let default = ProcessorPolicy::default();
    assert_eq!(policy(""), default);
    assert_eq!(policy("cpu = \"baseline\""), default);
    assert_eq!(policy("cpu = \"host\""), ProcessorPolicy { model: Model::Host, ..default });
    assert_eq!(policy("cpu = {}"), default);
    assert_eq!(policy("cpu = { cpuid = \"host\" }").model, Model::Host);
    assert_eq!(policy("cpu = { tsc = \"coarse\" }").time, TimeSource::Coarse);
    assert_eq!(policy("cpu = { tsc = \"native\" }"), default);
    assert_eq!(policy("cpu = { debug = true }"), default);
    assert_eq!(policy("cpu = { debug = false }"), ProcessorPolicy { debug_registers: false, ..default });
    let features = policy("cpu = { features = [\"avx2\", \"-rdrand\"] }");
    assert_eq!(features.added, F::AVX2 | F::AVX | F::XSAVE, "what it needs comes with it");
    assert_eq!(features.removed, F::RDRAND);
    assert_eq!(policy("cpu = { features = [\"x86-64-v3\"] }").added, X86_64_V3);
    for info in FEATURES {
        assert!(policy(&format!("cpu = {{ features = [\"{}\"] }}", info.name)).added.contains(info.feature));
    }
}

#[test]
fn a_cpu_that_cannot_be_is_refused_at_its_key() {
    let wrong = |line: &str, code, key: &str| refused(&format!("{TWO}cpu = {line}\n"), code, 8, key);
    wrong("\"fast\"", codes::BAD_VALUE, "vm.b.cpu");
    wrong("3", codes::WRONG_TYPE, "vm.b.cpu");
    wrong("{ cpuid = \"max\" }", codes::BAD_VALUE, "vm.b.cpu.cpuid");
    wrong("{ tsc = \"fuzzy\" }", codes::BAD_VALUE, "vm.b.cpu.tsc");
    wrong("{ debug = 1 }", codes::WRONG_TYPE, "vm.b.cpu.debug");
    wrong("{ features = \"avx\" }", codes::WRONG_TYPE, "vm.b.cpu.features");
    let error = wrong("{ features = [\"avx512f\"] }", codes::FEATURE, "vm.b.cpu.features");
    assert!(error.remedy.unwrap().contains("sse4.2"));
    wrong("{ features = [\"avx2\", \"-avx\"] }", codes::FEATURE, "vm.b.cpu");
    wrong("{ features = [\"rdtscp\"], tsc = \"coarse\" }", codes::FEATURE, "vm.b.cpu");
    wrong("{ tcs = \"coarse\" }", codes::UNKNOWN_KEY, "vm.b.cpu.tcs");
}

#[test]
fn ports_are_read_and_each_has_one_owner_at_most() {
    let ports = |line: &str| read(&format!("{TWO}ports = [{line}]\n")).unwrap().vms[1].ports.clone();
    let ranges: Vec<PortRange> = ports("\"0x70-0x71\", \"0x2f8-0x2ff\", \"0x3e8\"").iter().map(|p| p.value).collect();
    let range = |first, last| PortRange { first, last };
    assert_eq!(ranges, [range(0x70, 0x71), range(0x2f8, 0x2ff), range(0x3e8, 0x3e8)]);
    let wrong = |line: &str, code| refused(&format!("{TWO}ports = [{line}]\n"), code, 8, "vm.b.ports");
    for text in ["70", "0x71-0x70", "0x", "0x10000", "0x70-", "", "0x70-0x71-0x72"] {
        wrong(&format!("\"{text}\""), codes::BAD_VALUE);
    }
    wrong("0x70", codes::WRONG_TYPE);
    let error = wrong("\"0x3f0-0x3f8\"", codes::PORTS);
    assert!(error.what.contains("the console"), "{}", error.what);
    wrong("\"0xcf8-0xcff\"", codes::PORTS);
    wrong("\"0x70\", \"0x70-0x71\"", codes::PORTS);
    let both = TWO.replace("kernel = \"a\"", "kernel = \"a\"\nports = [\"0x70-0x71\"]");
    let error = refused(&format!("{both}ports = [\"0x71\"]\n"), codes::PORTS, 9, "vm.b.ports");
    assert!(error.what.contains("`a`"), "{}", error.what);
    let many: Vec<String> = (0..17).map(|n| format!("\"{:#x}\"", 0x1000 + n)).collect();
    wrong(&many.join(", "), codes::TOO_MANY);
}

#[test]
fn text_that_is_no_toml_names_its_line() {
    refused("[[vm]]\nname = \"a\nkernel = 3", codes::TOML, 2, "");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let text = format!("{TWO}memroy = \"16M\"\n");
    let error = refused(&text, codes::UNKNOWN_KEY, 8, "vm.b.memroy");
    assert_eq!(error.remedy.as_deref(), Some("did you mean `memory`?"));
    let error = refused(&format!("frobnicate = 1\n{TWO}"), codes::UNKNOWN_KEY, 1, "frobnicate");
    assert!(error.remedy.unwrap().contains("channel"));
}

#[test]
fn a_missing_key_and_an_empty_system_are_refused() {
    refused("[[vm]]\nkernel = \"a\"\n", codes::MISSING_KEY, 1, "vm");
    refused("", codes::MISSING_KEY, 0, "");
    let text = format!("{TWO}[[channel]]\nname = \"c\"\nbetween = [\"a\"]\n");
    refused(&text, codes::MISSING_KEY, 8, "channel.c");
}

#[test]
fn a_value_of_another_type_is_refused() {
    refused(&format!("{TWO}vcpus = \"two\"\n"), codes::WRONG_TYPE, 8, "vm.b.vcpus");
    refused(&format!("{TWO}memory = 16\n"), codes::WRONG_TYPE, 8, "vm.b.memory");
    refused("vm = 3\n", codes::WRONG_TYPE, 1, "vm");
    refused(&format!("{TWO}modules = [1]\n"), codes::WRONG_TYPE, 8, "vm.b.modules");
}

#[test]
fn values_out_of_range_are_refused() {
    for line in [
        "vcpus = 0",
        "vcpus = 17",
        "weight = 0",
        "weight = -1",
        "cap = 0",
        "memory = \"16\"",
        "memory = \"1K\"",
        "memory = \"0M\"",
        "memory = \"99999999999999999999G\"",
        "pool = \"x\"",
        "on-crash = \"explode\"",
        "restarts = 3",
    ] {
        let key = format!("vm.b.{}", line.split_once(' ').unwrap().0);
        refused(&format!("{TWO}{line}\n"), codes::BAD_VALUE, 8, &key);
    }
    let long = format!("{TWO}command-line = \"{}\"\n", "x".repeat(257));
    refused(&long, codes::BAD_VALUE, 8, "vm.b.command-line");
    let label = format!("{TWO}label = {{ secrecy = 256 }}\n");
    refused(&label, codes::BAD_VALUE, 8, "vm.b.label.secrecy");
    let categories = format!("{TWO}label = {{ secrecy-categories = [64] }}\n");
    refused(&categories, codes::BAD_VALUE, 8, "vm.b.label.secrecy-categories");
    let channel = format!("{TWO}[[channel]]\nname = \"c\"\nbetween = [\"a\", \"b\"]\nsize = \"17M\"\n");
    refused(&channel, codes::BAD_VALUE, 11, "channel.c.size");
}

#[test]
fn names_that_could_forge_a_console_line_are_refused() {
    for name in ["", "a]", "a b", "cloister", "ä", &"x".repeat(32)] {
        let text = format!("[[vm]]\nname = \"{name}\"\nkernel = \"a\"\n");
        refused(&text, codes::BAD_NAME, 2, &format!("vm.{name}.name"));
    }
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let text = TWO.replace("name = \"b\"", "name = \"a\"");
    let error = refused(&text, codes::DUPLICATE, 5, "vm.a");
    assert!(error.what.contains("line 1"), "{}", error.what);
}

#[test]
fn a_channel_needs_two_different_vms_that_exist() {
    let channel = |a, b| format!("{TWO}[[channel]]\nname = \"c\"\nbetween = [\"{a}\", \"{b}\"]\n");
    refused(&channel("a", "nobody"), codes::CHANNEL_TO_NOBODY, 10, "channel.c.between");
    refused(&channel("a", "a"), codes::CHANNEL_TO_SELF, 8, "channel.c");
    assert!(read(&channel("a", "b")).is_ok());
}

#[test]
fn a_channel_against_the_labels_is_refused() {
    let text = TWO.replace("kernel = \"b\"", "kernel = \"b\"\nlabel = { secrecy = 1 }");
    let text = format!("{text}[[channel]]\nname = \"c\"\nbetween = [\"a\", \"b\"]\n");
    let error = refused(&text, codes::LABELS, 9, "channel.c");
    assert!(error.what.contains("a -> b, channel-use"), "{}", error.what);
}

#[test]
fn more_than_the_hypervisors_tables_hold_is_refused() {
    let vms: String = (0..65).map(|n| format!("[[vm]]\nname = \"v{n}\"\nkernel = \"k\"\n")).collect();
    refused(&vms, codes::TOO_MANY, 193, "vm.v64");
    let modules: String = (0..9).map(|n| format!("{{ name = \"m{n}\", path = \"f\" }},")).collect();
    refused(&format!("{TWO}modules = [{modules}]\n"), codes::TOO_MANY, 5, "vm.b");
    let channels: String =
        (0..9).map(|n| format!("[[channel]]\nname = \"c{n}\"\nbetween = [\"a\", \"b\"]\n")).collect();
    let errors = read(&format!("{TWO}{channels}")).unwrap_err();
    assert!(errors.iter().all(|error| error.code == codes::TOO_MANY), "{errors:?}");
}

#[test]
fn a_kernel_comes_from_exactly_one_place() {
    refused("[[vm]]\nname = \"a\"\n", codes::SOURCE, 1, "vm.a");
    refused("[[vm]]\nname = \"a\"\nkernel = \"a\"\npath = \"b\"\n", codes::SOURCE, 3, "vm.a.kernel");
    refused("[[vm]]\nname = \"a\"\ncrate = \"nowhere\"\n", codes::KERNEL_MISSING, 3, "vm.a.crate");
}

#[test]
fn a_test_table_that_cannot_hold_is_refused() {
    refused(&format!("{TWO}[test]\nscript = \"none\"\n"), codes::TEST_TABLE, 9, "test.script");
    refused(&format!("{TWO}[test]\nsmp = [0]\n"), codes::BAD_VALUE, 9, "test.smp");
    refused(&format!("{TWO}[test]\nsame = [\"a\"]\n"), codes::TEST_TABLE, 9, "test.same");
    refused(&format!("{TWO}[test]\nsame = [\"a\", \"c\"]\n"), codes::TEST_TABLE, 9, "test.same");
    refused(&format!("{TWO}[test]\ncpu = [1]\n"), codes::WRONG_TYPE, 9, "test.cpu");
    refused(&format!("{TWO}[test]\ncpu = 1\n"), codes::WRONG_TYPE, 9, "test.cpu");
    refused(&format!("{TWO}[test]\nexpects = [\"x\"]\n"), codes::UNKNOWN_KEY, 9, "test.expects");
}

#[test]
fn an_error_shows_code_file_line_key_and_remedy() {
    let error = refused(&format!("{TWO}vcpus = 99\n"), codes::BAD_VALUE, 8, "vm.b.vcpus");
    let text = error.to_string();
    for part in ["error[HV-CFG-006]: ", "--> systems/x.toml:8: vm.b.vcpus", "try: ", "docs/errors/HV-CFG-006.md"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn sizes_are_whole_pages() {
    assert_eq!(parse_size("16M"), Ok(16 << 20));
    assert_eq!(parse_size("16 MiB"), Ok(16 << 20));
    assert_eq!(parse_size("4K"), Ok(4096));
    assert_eq!(parse_size("1G"), Ok(1 << 30));
    for bad in ["", "M", "4", "5K", "-4K", "4k", "4MB", "1.5M"] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

/// Files in a folder of the test's own, instead of built programs.
struct Files {
    folder: PathBuf,
    broken: HashMap<String, Missing>,
}

impl Files {
    fn new(test: &str, files: &[(&str, Vec<u8>)]) -> Files {
        let folder = std::env::temp_dir().join(format!("cloister-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        Files { folder, broken: HashMap::new() }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

impl Artifacts for Files {
    fn obtain(&mut self, artifact: &Artifact) -> Result<PathBuf, Missing> {
        let name = match artifact {
            Artifact::Package(name, _) => name.clone(),
            Artifact::Folder(path, _) | Artifact::File(path) | Artifact::Made(path) => {
                path.file_name().unwrap().to_str().unwrap().to_owned()
            }
            Artifact::DebianKernel(_) => "debian".to_owned(),
            Artifact::Busybox => "busybox".to_owned(),
        };
        match self.broken.get(&name) {
            Some(missing) => Err(missing.clone()),
            None => Ok(self.folder.join(name)),
        }
    }
}

/// Assembles `TWO` with this kernel as `b`, and gives the only error.
fn assembled_badly(test: &str, kernel: Vec<u8>, more: &str, memory_mib: u64) -> ConfigError {
    let mut files = Files::new(test, &[("a", ElfBuilder::default().build()), ("b", kernel)]);
    let system = read(&format!("{TWO}{more}")).unwrap();
    let errors = assemble(&system, &mut files, Some(memory_mib)).expect_err("it is accepted");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn a_kernel_that_is_none_is_refused_at_its_key() {
    let cases: [(&str, ElfBuilder, &Code); 5] = [
        ("machine", ElfBuilder { machine: 3, ..ElfBuilder::default() }, codes::NOT_A_KERNEL),
        ("pie", ElfBuilder { kind: 3, ..ElfBuilder::default() }, codes::NOT_FIXED),
        ("note", ElfBuilder { note: None, ..ElfBuilder::default() }, codes::NO_NOTE),
        ("version", ElfBuilder { note: Some(note(7, 0)), ..ElfBuilder::default() }, codes::ABI_VERSION),
        ("entry", ElfBuilder { entry: 1, ..ElfBuilder::default() }, codes::OUTSIDE),
    ];
    for (test, elf, code) in cases {
        let error = assembled_badly(test, elf.build(), "", 512);
        assert_eq!((error.code.id, error.line, error.key.as_str()), (code.id, 7, "vm.b.kernel"));
    }
    let error = assembled_badly("text", b"hello".to_vec(), "", 512);
    assert_eq!(error.code, codes::NOT_A_KERNEL);
}

#[test]
fn kernels_and_modules_that_cannot_be_had_are_named() {
    let mut files = Files::new("missing", &[("a", ElfBuilder::default().build())]);
    files.broken.insert("a".into(), Missing::Broken("no".into()));
    let system = read(&format!("{TWO}modules = [{{ name = \"m\", path = \"gone\" }}]\n")).unwrap();
    let errors = assemble(&system, &mut files, Some(512)).unwrap_err();
    let found: Vec<(&str, usize)> = errors.iter().map(|error| (error.code.id, error.line)).collect();
    assert_eq!(found, [(codes::KERNEL_BUILD.id, 3), (codes::KERNEL_MISSING.id, 7), (codes::MODULE.id, 8)]);
}

#[test]
fn memory_is_compared_with_kernel_and_machine() {
    let elf = ElfBuilder::default().build();
    let error = assembled_badly("small", elf.clone(), "memory = \"64K\"\n", 512);
    assert_eq!((error.code, error.line), (codes::VM_TOO_SMALL, 8));
    let error = assembled_badly("large", elf.clone(), "memory = \"1G\"\n", 512);
    assert_eq!(error.code, codes::TOO_MUCH_MEMORY);
    assert!(error.what.contains("b 10"), "{}", error.what);
}

#[test]
fn an_assembly_stores_equal_payloads_once_and_keeps_the_order() {
    let elf = ElfBuilder::default().build();
    let mut files = Files::new("order", &[("a", elf.clone()), ("b", elf)]);
    let text = format!("{TWO}[[channel]]\nname = \"c\"\nbetween = [\"b\", \"a\"]\n");
    let assembly = assemble(&read(&text).unwrap(), &mut files, Some(512)).unwrap();
    assert_eq!(assembly.payloads.len(), 2);
    assert_eq!(assembly.manifest.vms[1].name, "b");
    assert_eq!(assembly.manifest.vms[0].segments, assembly.manifest.vms[1].segments);
    assert_eq!(assembly.manifest.channels[0].ends, [1, 0]);
}

/// A VM of Xen's ABI with these keys.
fn xen(keys: &str) -> String {
    format!("{TWO}[[vm]]\nname = \"x\"\npersonality = \"xen\"\n{keys}\n")
}

#[test]
fn a_xen_vm_has_a_kernel_a_disk_and_a_long_command_line() {
    let line = "x".repeat(1023);
    let system = read(&xen(&format!("path = \"vmlinuz\"\ninitrd = \"disk\"\ncommand-line = \"{line}\""))).unwrap();
    let vm = &system.vms[2];
    assert_eq!(vm.kernel.value, Artifact::File("/nonexistent/vmlinuz".into()));
    assert_eq!((vm.memory.value, vm.pool_frames, vm.vcpus), (65536, None, 1));
    assert_eq!((vm.command_line.as_str(), vm.processor.model), (line.as_str(), Model::Host));
    let Some(Initrd::File(file)) = &vm.xen.as_ref().unwrap().initrd else { panic!("{vm:?}") };
    assert_eq!((&file.value, file.place.line), (&Artifact::File("/nonexistent/disk".into()), 12));
    let vm = &read(&xen("path = \"mini\"\ncpu = \"baseline\"")).unwrap().vms[2];
    assert_eq!((vm.xen.as_ref().unwrap().initrd.is_none(), vm.command_line.as_str()), (true, ""));
    assert_eq!(vm.processor, ProcessorPolicy::default());
}

#[test]
fn a_kernel_of_debian_comes_with_a_disk_and_a_command_line() {
    let vm = &read(&xen("debian-kernel = \"generic\"")).unwrap().vms[2];
    assert_eq!(vm.kernel.value, Artifact::DebianKernel(Flavour::Generic));
    assert!(vm.command_line.contains("console=hvc0"), "{}", vm.command_line);
    assert!(matches!(&vm.xen.as_ref().unwrap().initrd, Some(Initrd::Busybox(programs)) if programs.value.is_empty()));
    let keys = "debian-kernel = \"cloud\"\ncommand-line = \"quiet\"\nprograms = [{ name = \"p\", path = \"q\" }]";
    let vm = &read(&xen(keys)).unwrap().vms[2];
    assert_eq!(vm.command_line, "quiet");
    let Some(Initrd::Busybox(programs)) = &vm.xen.as_ref().unwrap().initrd else { panic!("{vm:?}") };
    assert_eq!(programs.value[0].name, "p");
    let vm = &read(&xen("debian-kernel = \"cloud\"\ninitrd = \"disk\"")).unwrap().vms[2];
    assert!(matches!(&vm.xen.as_ref().unwrap().initrd, Some(Initrd::File(_))));
}

#[test]
fn keys_of_the_other_personality_are_refused() {
    for (keys, key) in [("modules = [{ name = \"m\", path = \"m\" }]", "modules"), ("ports = [\"0x2f8\"]", "ports")] {
        let error = refused(&xen(&format!("path = \"k\"\n{keys}")), codes::PERSONALITY, 12, &format!("vm.x.{key}"));
        assert!(error.what.contains("has none"), "{}", error.what);
    }
    let coarse = xen("path = \"k\"\ncpu = { tsc = \"coarse\" }");
    assert!(refused(&coarse, codes::PERSONALITY, 12, "vm.x.cpu").what.contains("exact"));
    for (keys, key) in [("initrd = \"i\"", "initrd"), ("programs = []", "programs")] {
        let error = refused(&format!("{TWO}{keys}\n"), codes::PERSONALITY, 8, &format!("vm.b.{key}"));
        assert!(error.what.contains("personality"), "{}", error.what);
    }
    refused("[[vm]]\nname = \"a\"\ndebian-kernel = \"cloud\"\n", codes::PERSONALITY, 3, "vm.a.debian-kernel");
    let channel = xen("path = \"k\"\n[[channel]]\nname = \"c\"\nbetween = [\"a\", \"x\"]");
    refused(&channel, codes::PERSONALITY, 12, "channel.c");
}

#[test]
fn values_that_a_xen_vm_cannot_have_are_refused() {
    let wrong = |keys: &str, code, key: &str| refused(&xen(keys), code, 11, key);
    wrong("debian-kernel = \"desktop\"", codes::BAD_VALUE, "vm.x.debian-kernel");
    wrong("debian-kernel = \"cloud\"\npath = \"k\"", codes::SOURCE, "vm.x.debian-kernel");
    wrong("programs = []\npath = \"k\"", codes::SOURCE, "vm.x.programs");
    wrong(&format!("command-line = \"{}\"\npath = \"k\"", "x".repeat(1024)), codes::BAD_VALUE, "vm.x.command-line");
    refused(&format!("{TWO}personality = \"vms\"\n"), codes::BAD_VALUE, 8, "vm.b.personality");
    refused(&format!("{TWO}command-line = \"{}\"\n", "x".repeat(257)), codes::BAD_VALUE, 8, "vm.b.command-line");
}

/// Files of a system with a Xen VM.
fn xen_files(test: &str, kernel: Vec<u8>) -> Files {
    let native = ElfBuilder::default().build();
    let files =
        [("a", native.clone()), ("b", native), ("k", kernel), ("disk", vec![9; 5000]), ("busybox", vec![8; 10])];
    Files::new(test, &files)
}

#[test]
fn a_xen_vm_is_assembled_with_its_notes_and_its_disk() {
    let mut files = xen_files("xen", XenElf::default().build());
    let system = read(&xen("path = \"k\"\ninitrd = \"disk\"\nmemory = \"128M\"")).unwrap();
    let assembly = assemble(&system, &mut files, Some(512)).unwrap();
    let vm = &assembly.manifest.vms[2];
    let kernel = crate::kernel::xen::read(XenElf::default().build()).unwrap();
    assert_eq!((vm.personality, vm.entry), (Personality::Xen(kernel.wishes), kernel.entry));
    assert_eq!((vm.pool_frames, vm.segments.len(), vm.modules.len()), (128 + 256, 2, 1));
    assert_eq!(vm.segments[0].address, kernel.segments[0].address);
    assert_eq!(assembly.payloads[usize::try_from(vm.modules[0].image_offset).unwrap()], vec![9; 5000]);
    assert_eq!(assembly.manifest.vms[0].personality, Personality::Native);
    let system =
        read(&xen("path = \"k\"\ninitrd = \"busybox\"\nprograms = [{ name = \"p\", path = \"disk\" }]")).unwrap();
    let assembly = assemble(&system, &mut files, Some(512)).unwrap();
    let vm = &assembly.manifest.vms[2];
    let disk = crate::initramfs::build(&[8; 10], &[("p".to_owned(), vec![9; 5000])]);
    assert_eq!(vm.modules[0].bytes, disk.len() as u64);
    assert!(assembly.payloads[usize::try_from(vm.modules[0].image_offset).unwrap()] == disk);
}

#[test]
fn a_xen_kernel_that_is_none_and_a_package_that_cannot_be_had_are_named() {
    let one_error = |files: &mut Files, keys: &str| {
        let errors = assemble(&read(&xen(keys)).unwrap(), files, Some(512)).expect_err("it is accepted");
        assert_eq!(errors.len(), 1, "{errors:#?}");
        (errors[0].code.id, errors[0].line, errors[0].key.clone())
    };
    let mut files = xen_files("xen-pvh", XenElf { notes: Vec::new(), ..XenElf::default() }.build());
    let found = one_error(&mut files, "path = \"k\"");
    assert_eq!(found, (codes::XEN_NO_ENTRY.id, 11, "vm.x.path".to_owned()));
    let mut files = xen_files("xen-small", XenElf::default().build());
    assert_eq!(one_error(&mut files, "path = \"k\"\nmemory = \"16M\"").0, codes::VM_TOO_SMALL.id);
    assert_eq!(one_error(&mut files, "path = \"k\"\nmemory = \"1G\"").0, codes::TOO_MUCH_MEMORY.id);
    files.broken.insert("debian".into(), Missing::Package("no mirror".into()));
    assert_eq!(one_error(&mut files, "debian-kernel = \"cloud\"").0, codes::PACKAGE.id);
    assert_eq!(one_error(&mut files, "path = \"k\"\ninitrd = \"gone\"").0, codes::MODULE.id);
}

#[test]
fn a_machine_of_which_nothing_is_said_has_enough() {
    let mut files = xen_files("sufficient", XenElf::default().build());
    let mut mib = |memory: &str| {
        let system = read(&xen(&format!("path = \"k\"\nmemory = \"{memory}\""))).unwrap();
        let assembly = assemble(&system, &mut files, None).unwrap();
        // What was chosen is accepted when it is asked for.
        assert_eq!(assemble(&system, &mut files, Some(assembly.memory_mib)).unwrap().memory_mib, assembly.memory_mib);
        assembly.memory_mib
    };
    assert_eq!(mib("64M"), 512);
    for memory in 8..80 {
        let [given, got] = [memory * 64, mib(&format!("{}M", memory * 64))];
        assert!(got > given && got < given + given / 16 + 192, "{given}: {got}");
    }
}
