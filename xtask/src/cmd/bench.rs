//! `bench`: counts virtual instructions per operation, twice, and writes them beside Xen's figures.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{load, prepare};
use crate::build::{Builder, Profile};
use crate::error::{Exit, Failure};
use crate::generate::table;
use crate::host::fetch;
use crate::qemu::{Boot, Machine};
use crate::session::{self, Goal, SilentView};
use crate::{cmd, tree};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// A name of guest-kernels/systems, or the path of a system file; without it, those of both ABIs.
    system: Option<String>,
    /// Prints one JSON object and writes no page.
    #[arg(long)]
    json: bool,
}

/// One measured operation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figure {
    /// Its name.
    operation: String,
    /// Virtual instructions.
    instructions: u64,
}

/// Xen 4.17's figures for the same operation of a paravirtual guest on the same emulator: the
/// bench's name of it, with page-table isolation, without.
const XEN: [(&str, u64, u64); 8] = [
    ("hypercall-null", 221, 212),
    ("user-call", 1_856, 647),
    ("exception", 686, 665),
    ("user-fault", 2_003, 791),
    ("event-self", 868, 848),
    ("map-1", 1_051, 1_042),
    ("map-512-per-page", 660, 660),
    ("space-switch", 1_609, 1_032),
];

/// Xen 4.17's figures of the kernel `pvbench`, and the part of the first that is wanted here, in hundredths: the
/// bench's name, with page-table isolation, without, the goal.
const XEN_OF_PVBENCH: [(&str, u64, u64, u64); 49] = [
    ("hc_nosys", 221, 212, 40),
    ("hc_xen_version", 265, 256, 40),
    ("hc_multicall32_per_call", 211, 211, 20),
    ("hc_stack_switch", 231, 222, 40),
    ("hc_set_segbase_fs", 239, 230, 40),
    ("hc_fpu_taskswitch", 239, 230, 40),
    ("hc_set_debugreg", 265, 256, 45),
    ("hc_update_descriptor", 535, 526, 40),
    ("hc_vcpu_is_up", 290, 281, 40),
    ("hc_set_timer_far", 570, 561, 50),
    ("hc_sched_yield", 2_001, 1_982, 20),
    ("hc_iret_kernel", 305, 296, 40),
    ("exc_ud_kernel", 686, 665, 45),
    ("exc_bp_kernel", 622, 601, 45),
    ("exc_pf_kernel", 686, 665, 45),
    ("emu_cpuid_forced", 370, 358, 80),
    ("emu_rdmsr_efer", 1_160, 1_136, 50),
    ("emu_wrmsr_fsbase", 1_158, 1_134, 50),
    ("emu_read_cr0", 1_286, 1_260, 50),
    ("emu_clts", 1_145, 1_118, 50),
    ("emu_in_port80", 1_438, 1_412, 50),
    ("evt_send_masked", 473, 462, 40),
    ("evt_send_upcall", 868, 848, 45),
    ("hc_block_pending", 1_147, 1_118, 45),
    ("mmu_update_1_flags", 1_051, 1_042, 40),
    ("mmu_update_1_frame", 1_094, 1_085, 40),
    ("mmu_update_1_clear_set", 909, 900, 40),
    ("mmu_update_128_per_entry", 660, 660, 20),
    ("update_va_flags", 869, 860, 45),
    ("update_va_frame", 916, 907, 45),
    ("update_va_frame_invlpg", 982, 973, 45),
    ("update_va_frame_tlbflush", 991, 993, 45),
    ("ptwr_direct_write", 1_758, 1_736, 50),
    ("mmuext_tlbflush_local", 486, 488, 40),
    ("mmuext_invlpg_local", 473, 464, 40),
    ("mmuext_new_user_base", 419, 410, 40),
    ("mmuext_new_baseptr", 1_609, 1_032, 30),
    ("mmuext_pin_unpin_l4", 19_675, 19_657, 20),
    ("mmuext_pin_unpin_l1_empty", 18_838, 18_820, 20),
    ("mmuext_pin_unpin_l1_full", 188_863, 188_845, 20),
    ("usr_enter_exit", 3_725, 1_313, 20),
    ("usr_syscall_rt", 1_856, 647, 14),
    ("usr_int80_rt", 1_841, 632, 18),
    ("usr_ud_rt", 2_008, 796, 20),
    ("usr_pf_rt", 2_003, 791, 20),
    ("mem_release_populate_1p", 2_752, 2_745, 40),
    ("gnt_map_unmap", 2_737, 2_730, 40),
    ("gnt_copy_4k", 2_118, 2_109, 55),
    ("gnt_copy_16b", 1_608, 1_599, 40),
];

/// Xen 4.17's figures for an operation, with page-table isolation and without, and our goal, if there is one.
fn xen(operation: &str) -> Option<(u64, u64, Option<u64>)> {
    let of_ours =
        || XEN.iter().find(|(name, ..)| *name == operation).map(|(_, isolated, plain)| (*isolated, *plain, None));
    let of_pvbench = XEN_OF_PVBENCH.iter().find(|(name, ..)| *name == operation);
    of_pvbench.map_or_else(of_ours, |(_, isolated, plain, part)| Some((*isolated, *plain, Some(isolated * part / 100))))
}

/// The systems that are measured, and the titles of their tables.
const SYSTEMS: [(&str, &str); 2] = [("bench", "Cloister's own ABI"), ("bench-xen", "Xen's ABI")];

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let systems: Vec<(&str, &str)> = match &options.system {
        Some(system) => vec![(system, system)],
        None => SYSTEMS.to_vec(),
    };
    let mut tables = Vec::new();
    for (system, title) in systems {
        tables.push((title, measure_twice(system)?));
    }
    if options.json {
        let figures: Vec<_> = tables
            .iter()
            .flat_map(|(_, figures)| figures)
            .map(|figure| json!({"operation": figure.operation, "instructions": figure.instructions}))
            .collect();
        println!("{}", json!({"figures": figures, "identical_runs": 2}));
        return Ok(Exit::Success);
    }
    let text = page(&tables);
    print!("{text}");
    if options.system.is_none() {
        cmd::write(&tree::root().join("docs/bench.md"), text.as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Runs a system twice, which must give the same figures.
fn measure_twice(system: &str) -> Result<Vec<Figure>, Failure> {
    let first = measure(system)?;
    let second = measure(system)?;
    if first == second {
        return Ok(first);
    }
    let differ: Vec<String> = first
        .iter()
        .zip(&second)
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("{}: {} and {}", a.operation, a.instructions, b.instructions))
        .collect();
    Err(Failure::new(Exit::Unmet, format_args!("error: two runs differ: {}", differ.join(", "))))
}

/// Runs the system once under the instruction clock.
fn measure(system: &str) -> Result<Vec<Figure>, Failure> {
    let system = load(system)?;
    let program = fetch::ready()?;
    let mut builder = Builder::new(Profile::Release);
    let prepared = prepare(&system, &mut builder, crate::system::DEFAULT_MEMORY_MIB)?;
    let test = system.test.as_ref();
    let expect = test.map(|test| test.expect.clone()).unwrap_or_default();
    let machine = Machine {
        program,
        boot: Boot::Direct { hypervisor: prepared.hypervisor, image: prepared.image },
        smp: test.and_then(|test| test.smp.first().copied()).unwrap_or(1),
        memory_mib: crate::system::DEFAULT_MEMORY_MIB,
        cpu: test.and_then(|test| test.cpu.first().cloned()).unwrap_or_else(|| "max".to_owned()),
        icount: true,
        more: Vec::new(),
    };
    let goal = Goal { to_end: expect.is_empty(), expect, timeout: Some(Duration::from_secs(300)), ..Goal::default() };
    let outcome = session::run(&machine, &prepared.programs, &goal, &mut SilentView)?;
    let figures: Vec<Figure> = outcome.transcript.iter().filter_map(|line| figure(line)).collect();
    if outcome.exit == Exit::Success && !figures.is_empty() {
        return Ok(figures);
    }
    let shown = outcome.transcript.join("\n");
    let what = format_args!("{shown}\nerror: the bench did not end well: {}", outcome.exit.words());
    Err(Failure::new(outcome.exit, what))
}

/// The figure of a console line `[vm] bench OPERATION N`, or of pvbench's
/// `[vm] UB OPERATION ... reps=N tsc=N ...`.
fn figure(line: &str) -> Option<Figure> {
    let shown = Some(line).filter(|line| line.starts_with('['))?;
    if let Some((_, rest)) = shown.split_once("] UB ") {
        let operation = rest.split_whitespace().next()?;
        let ticks: f64 = rest.split_whitespace().find_map(|word| word.strip_prefix("tsc="))?.parse().ok()?;
        // Of all that is said only once, the start depends on much else than the hypervisor.
        let is_repeated = !rest.contains(" reps=1 ");
        let instructions = format!("{ticks:.0}").parse().ok().filter(|_| is_repeated)?;
        return Some(Figure { operation: operation.to_owned(), instructions });
    }
    // Console writes are measured too: what they wrote may stand in front.
    let (_, rest) = shown.split_once("bench ")?;
    let (operation, number) = rest.rsplit_once(' ')?;
    Some(Figure { operation: operation.trim().to_owned(), instructions: number.trim().parse().ok()? })
}

/// The page.
fn page(tables: &[(&str, Vec<Figure>)]) -> String {
    let mut text =
        "<!-- Generated by `cargo xtask bench`; do not edit. -->\n\n# Virtual instructions per operation\n\n"
            .to_owned();
    let _ = writeln!(
        text,
        "One executed instruction counts 1 under QEMU's instruction clock, in guest and hypervisor together; the figures \
         are the same in every run. Xen's are those of version 4.17 for a paravirtual guest on the same emulator, with \
         and without page-table isolation, which Cloister does not have yet. The second table is that of one kernel, \
         `guest-kernels/xen/pvbench`, on both; goals are parts of Xen's figures with isolation."
    );
    for (title, figures) in tables {
        let rows: Vec<Vec<String>> = figures.iter().map(row).collect();
        let names = ["operation", "Cloister", "Xen, isolated", "Xen, not isolated", "goal"];
        let _ = writeln!(text, "\n## {title}\n\n{}", table(&names, &rows).trim_end());
    }
    text
}

/// The row of a figure.
fn row(figure: &Figure) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let xen = xen(&figure.operation);
    let (isolated, plain) = (xen.map(|(isolated, ..)| isolated), xen.map(|(_, plain, _)| plain));
    let goal = xen.and_then(|(.., goal)| goal);
    vec![figure.operation.clone(), figure.instructions.to_string(), number(isolated), number(plain), number(goal)]
}

#[cfg(test)]
mod tests {
    use super::{Figure, figure, page};

    #[test]
    fn figures_are_read_from_console_lines_and_shown_beside_xens() {
        let found = figure("[ops] bench hypercall-null 61").unwrap();
        assert_eq!(found, Figure { operation: "hypercall-null".into(), instructions: 61 });
        assert!(page(&[("own", vec![found])]).contains("| hypercall-null | 61 | 221 | 212 | - |"));
        assert_eq!(figure("[ops] bench hypercall-null many"), None);
        assert_eq!(figure("[ops] bench: done"), None);
    }

    #[test]
    fn figures_of_pvbench_are_its_ticks_beside_the_goals() {
        let line = "[pv] UB hc_nosys 9.0 ns min=1 max=2 n=400 per=1 reps=5 tsc=87.51 id=3";
        let found = figure(line).unwrap();
        assert_eq!(found, Figure { operation: "hc_nosys".into(), instructions: 88 });
        assert!(page(&[("xen", vec![found])]).contains("## xen\n\n"));
        assert!(page(&[("xen", vec![figure(line).unwrap()])]).contains("| hc_nosys | 88 | 221 | 212 | 88 |"));
        assert_eq!(figure("[pv] UB pv_boot_to_kernel 1 ns n=1 per=1 reps=1 tsc=7 id=-1"), None);
        assert_eq!(figure("hc_nosys] UB reps=5 tsc=87.51"), None);
    }
}
