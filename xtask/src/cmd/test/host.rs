//! Tests that need no emulator: the crates' own, format, lints, generated files.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Case, Verdict};
use crate::build::TARGET;
use crate::error::{Context, Failure};
use crate::host::fetch;
use crate::{cmd, tree};

/// Suites of tests: name and arguments of `cargo test`. xtask is built in its own profile already; its tests
/// reuse that.
const SUITES: [(&str, &[&str]); 5] = [
    ("unit/protocol", &["-p", "protocol", "--all-features"]),
    ("unit/hv-core", &["-p", "hv-core", "--all-features"]),
    // What differs without the Xen personality.
    (
        "unit/hv-core-without-xen",
        &["-p", "hv-core", "--no-default-features", "--lib", "--", "frame::", "vm::", "abi::"],
    ),
    ("unit/all-others", &["--workspace", "--exclude", "protocol", "--exclude", "hv-core", "--exclude", "xtask"]),
    ("unit/xtask", &["--profile", "xtask", "-p", "xtask"]),
];

/// What Miri interprets, with the arguments of `cargo miri test`: the crates whose `unsafe` can run on a
/// host (their own, or that of what they derive and depend on). Of hv-core what reads bytes or is
/// shared by CPUs; tests with many cases are left out by an attribute, an interpreter being some
/// thousand times slower.
const MIRI: [(&str, &[&str]); 3] = [
    ("unit/miri-protocol", &["-p", "protocol", "--all-features", "--lib", "--tests"]),
    ("unit/miri-unsafe", &["-p", "guest-sdk", "-p", "hv-arch", "--lib"]),
    (
        "unit/miri-hv-core",
        &[
            "-p",
            "hv-core",
            "--all-features",
            "--lib",
            "--",
            "--skip",
            "abi::xen::",
            "abi::",
            "console::",
            "event::",
            "firmware::",
            "frame::",
            "grant::",
            "policy::tests::",
            "time::",
            "vm::tests::image::a_sound_image_is_read_as_it_was_packed",
        ],
    ),
];

/// What clippy looks at: name and arguments. The hypervisor is looked at as it is built.
const CLIPPY: [(&str, &[&str]); 5] = [
    ("unit/clippy-host", &["-p", "protocol", "-p", "hv-core", "-p", "guest-build", "--all-targets", "--all-features"]),
    ("unit/clippy-xtask", &["--profile", "xtask", "-p", "xtask", "--all-targets"]),
    ("unit/clippy-hypervisor", &["--release", "--target", TARGET, "-p", "hv-arch", "-p", "hv"]),
    ("unit/clippy-without-xen", &["-p", "hv-core", "--all-targets", "--no-default-features", "--features", "fakes"]),
    (
        "unit/clippy-hypervisor-without-xen",
        &["--release", "--target", TARGET, "-p", "hv-arch", "-p", "hv", "--no-default-features"],
    ),
];

/// The tests, cheap ones first.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("unit/format", |_| cargo("cargo fmt", &["fmt", "--all", "--check"])),
        Case::new("unit/lint", |_| cmd::lint::check().into()),
        Case::new("unit/header-is-current", |_| cmd::header::write(true).into()),
        Case::new("unit/reference-is-current", |_| cmd::reference::write(true).into()),
        Case::new("unit/header-compiles-as-c", |_| header_compiles()),
    ];
    for (name, arguments) in SUITES {
        cases.push(Case::new(name, move |_| cargo_test(arguments)));
    }
    for (name, arguments) in MIRI {
        cases.push(Case::new(name, move |_| miri(arguments)));
    }
    for target in cmd::fuzz::TARGETS {
        cases.push(Case::new(format!("unit/fuzz-{target}"), move |_| fuzz(target)));
    }
    for (name, arguments) in CLIPPY {
        cases.push(Case::new(name, move |_| {
            let words = [&["clippy"], arguments, &["--", "-D", "warnings"]].concat();
            cargo("clippy", &words)
        }));
    }
    cases.push(Case::new("unit/clippy-guests", |_| clippy_guests()));
    cases
}

/// Packages that are no guests and no part of one.
const NO_GUESTS: [&str; 6] = ["protocol", "hv-core", "hv-arch", "hv", "guest-build", "xtask"];

/// Clippy for each guest by itself: built together, one would get the features of the other (and
/// so need an allocator, say).
fn clippy_guests() -> Verdict {
    let Some(packages) = crate::build::packages(&tree::root()) else {
        return Verdict::Failed(0, 1, "cargo metadata does not run".to_owned());
    };
    let mut wrong = String::new();
    let mut passed = 0;
    let mut failed = 0;
    for package in packages.iter().filter(|name| !NO_GUESTS.contains(&name.as_str())) {
        let words = ["clippy", "--release", "--target", TARGET, "-p", package, "--", "-D", "warnings"];
        match cargo(package, &words) {
            Verdict::Failed(_, _, why) => {
                failed += 1;
                wrong += &format!("{why}\n");
            }
            Verdict::Passed(_) | Verdict::Skipped(_) => passed += 1,
        }
    }
    if failed == 0 { Verdict::Passed(passed) } else { Verdict::Failed(passed, failed, wrong) }
}

/// Runs cargo in the checkout: whether it went well, and what it said.
fn run_cargo(arguments: &[&str]) -> Result<(bool, String), Failure> {
    run(in_root("cargo"), arguments)
}

/// A program that is run in the checkout.
fn in_root(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(tree::root());
    command
}

/// Runs a program: whether it went well, and what it said.
fn run(mut program: Command, arguments: &[&str]) -> Result<(bool, String), Failure> {
    let output = program.args(arguments).stdin(Stdio::null()).output().context(program.get_program().display())?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// A cargo command that must go well.
fn cargo(what: &str, arguments: &[&str]) -> Verdict {
    match run_cargo(arguments) {
        Ok((true, _)) => Verdict::Passed(1),
        Ok((false, text)) => Verdict::Failed(0, 1, format!("{what} says:\n{}", tail(&text))),
        Err(failure) => Verdict::Failed(0, 1, failure.message),
    }
}

/// A suite of tests; each counts by itself.
fn cargo_test(arguments: &[&str]) -> Verdict {
    counted(run_cargo(&[&["test"], arguments].concat()))
}

/// A suite that Miri interprets; skipped where Miri cannot be had.
fn miri(arguments: &[&str]) -> Verdict {
    if let Err(why) = fetch::ensure_miri() {
        return Verdict::Skipped(why);
    }
    let words = [&["run", fetch::NIGHTLY, "cargo", "miri", "test"], arguments].concat();
    counted(run(in_root("rustup"), &words))
}

/// Inputs of a short run of a fuzz target.
const INPUTS: u64 = 20_000;

/// A short run of a fuzz target, always on the same inputs.
fn fuzz(target: &str) -> Verdict {
    match run(cmd::fuzz::plain(target, INPUTS, 1), &[]) {
        Ok((true, _)) => Verdict::Passed(1),
        Ok((false, text)) => Verdict::Failed(0, 1, tail(&text)),
        Err(failure) => Verdict::Failed(0, 1, failure.message),
    }
}

/// What a run of tests came to.
fn counted(outcome: Result<(bool, String), Failure>) -> Verdict {
    match outcome {
        Err(failure) => Verdict::Failed(0, 1, failure.message),
        Ok((good, text)) => {
            let (passed, failed) = count(&text);
            if good { Verdict::Passed(passed) } else { Verdict::Failed(passed, failed.max(1), tail(&text)) }
        }
    }
}

/// The sums of all `test result:` lines.
fn count(text: &str) -> (usize, usize) {
    let number = |line: &str, word: &str| -> usize {
        let before = line.split(word).next().unwrap_or("").trim_end();
        before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    text.lines()
        .filter(|line| line.starts_with("test result:"))
        .fold((0, 0), |(passed, failed), line| (passed + number(line, " passed"), failed + number(line, " failed")))
}

/// The end of a long text, where errors are summed up.
fn tail(text: &str) -> String {
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.trim_start().starts_with("Compiling") && !line.ends_with("... ok")).collect();
    let start = lines.len().saturating_sub(150);
    lines.get(start..).unwrap_or_default().join("\n")
}

/// The header in a C program, compiled with its assertions.
fn header_compiles() -> Verdict {
    if let Err(failure) = fetch::ensure_programs(&[("gcc", "gcc")]) {
        return Verdict::Skipped(format!("gcc is not here; {}", failure.message));
    }
    compile_header(&tree::work().join("header")).into()
}

/// A file that includes the header and uses a call of each form.
const C_PROGRAM: &str = "\
#include \"cloister.h\"
CLOISTER_ABI_NOTE;
int64_t use(void);
int64_t use(void)
{
    uint64_t second = 0;
    return cloister_info(CLOISTER_INFO_TOPIC_VERSION) + cloister_translate(0, CLOISTER_START_INFO, &second)
        + cloister_yield_cpu() + (int64_t)second;
}
";

/// The C examples of the porting guide, one behind the other.
fn c_examples(guide: &str) -> String {
    let blocks = guide.split("```c\n").skip(1);
    blocks.filter_map(|block| block.split_once("```")).map(|(example, _)| example).collect::<Vec<_>>().join("\n")
}

/// Compiles the header, and the guide's examples with it, as C11 and as GNU C17.
fn compile_header(folder: &Path) -> Result<(), Failure> {
    let source = folder.join("use.c");
    let guide = tree::root().join("docs/porting.md");
    let guide = std::fs::read_to_string(&guide).context(guide.display())?;
    cmd::write(&source, format!("{C_PROGRAM}{}", c_examples(&guide)).as_bytes())?;
    for flags in [["-std=c11", "-O2"], ["-std=c11", "-O0"], ["-std=gnu17", "-O2"]] {
        let output = Command::new("gcc")
            .args(flags)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffreestanding", "-c", "-I"])
            .arg(tree::root().join("guest-sdk/c"))
            .arg(&source)
            .arg("-o")
            .arg(folder.join("use.o"))
            .output()
            .context("gcc does not start")?;
        if !output.status.success() {
            return Err(Failure::usage(String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn examples_in_c_are_taken_out_of_a_guide() {
        let guide = "text\n```rust\nlet x;\n```\n```c\nint a;\n```\n```console\n$ x\n```\n```c\nint b;\n```\n";
        assert_eq!(super::c_examples(guide), "int a;\n\nint b;\n");
    }

    #[test]
    fn results_of_several_suites_are_added() {
        let text = "test result: ok. 12 passed; 0 failed; 1 ignored\nx\ntest result: FAILED. 3 passed; 2 failed; 0";
        assert_eq!(super::count(text), (15, 2));
    }
}
