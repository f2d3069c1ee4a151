//! `noninterference`: the two-run test. The system `noninterference` is booted under the instruction clock
//! with one secret after the other. VM `high` acts by the secret; VM `low` writes down everything it can
//! observe. In the strict profile all runs must be the same for `low`; in the shared profile they must
//! differ, or the test would prove nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use protocol::VmId;
use protocol::policy::{Profile, Schedule, Slot};

use super::{build, load};
use crate::build::{self as program, Builder};
use crate::error::{Context, Exit, Failure};
use crate::host::fetch;
use crate::qemu::{Boot, Machine, Program};
use crate::system::assemble::Assembly;
use crate::{cmd, pack, tree};

/// Arguments of `noninterference`.
#[derive(Debug, Args)]
pub struct Options {
    /// Pairs of runs to compare: each run but the first with the one before.
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Where the secrets come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The profile.
    #[arg(long, value_enum, default_value_t = Which::Strict)]
    profile: Which,
    /// CPUs; VMs get as many vCPUs.
    #[arg(long, default_value_t = 1)]
    smp: u32,
    /// Milliseconds of VM time that are observed.
    #[arg(long, default_value_t = 60)]
    span: u64,
}

/// A profile by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Time partitions: all runs must be the same.
    Strict,
    /// None: the positive control, runs must differ.
    Shared,
}

/// The slots, in microseconds: of `low` and `high` in turn, of unlike lengths, and one of nobody.
const SLOTS: [(u64, Option<u32>); 5] =
    [(2_000, Some(LOW)), (3_000, Some(HIGH)), (1_500, Some(LOW)), (1_000, Some(HIGH)), (500, None)];
const LOW: u32 = 0;
const HIGH: u32 = 1;
/// Patience with one run.
const TIMEOUT: Duration = Duration::from_secs(120);

impl Options {
    /// A comparison that is over soon: two frames of slots.
    pub const fn short(profile: Which, pairs: u32) -> Options {
        Options { pairs, seed: 1, profile, smp: 1, span: 16 }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    compare(options, &mut Builder::new(program::Profile::Release), fetch::ready()?)?;
    Ok(Exit::Success)
}

/// Compares runs, shows the first difference, and fails if there is one in the strict profile or none in the
/// shared one.
pub fn compare(options: &Options, builder: &mut Builder, emulator: Program) -> Result<(), Failure> {
    let mut test = Test::new(options, builder, emulator)?;
    let mut secrets = secrets(options.seed);
    let mut last: Option<(u64, String)> = None;
    let (mut pairs, mut different) = (0, 0);
    let begin = Instant::now();
    for secret in secrets.by_ref().take(usize::try_from(options.pairs).unwrap_or(usize::MAX).saturating_add(1)) {
        let digest = test.digest(secret)?;
        if let Some((before, seen)) = &last {
            pairs += 1;
            if *seen != digest {
                different += 1;
                if different == 1 {
                    println!("secrets {before:016x} and {secret:016x} differ: {seen}; {digest}");
                    test.show_difference(*before, secret)?;
                }
            }
            if pairs % 100 == 0 {
                println!("{pairs} pairs, {different} differ");
            }
        }
        last = Some((secret, digest));
    }
    let digest = last.map(|(_, digest)| digest).unwrap_or_default();
    println!(
        "{pairs} pairs in profile {:?}, {} CPUs, {} ms each: {different} differ (the last: {digest}; {} s)",
        options.profile,
        options.smp,
        options.span,
        begin.elapsed().as_secs()
    );
    match (options.profile, different) {
        (Which::Strict, 0) | (Which::Shared, 1..) => Ok(()),
        (Which::Strict, _) => Err(Failure::new(Exit::Unmet, "error: `low` can tell the secrets apart")),
        (Which::Shared, _) => Err(Failure::new(Exit::Unmet, "error: the positive control was not detected")),
    }
}

/// Numbers from a seed (Steele, Lea and Flood, `SplitMix64`).
fn secrets(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// What one run needs.
struct Test {
    assembly: Assembly,
    machine: Machine,
    image: PathBuf,
    serial: PathBuf,
    /// All files of this run.
    files: [PathBuf; 3],
    span: u64,
}

impl Drop for Test {
    fn drop(&mut self) {
        for file in &self.files {
            // It may never have been made.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Test {
    fn new(options: &Options, builder: &mut Builder, program: Program) -> Result<Test, Failure> {
        let mut system = load("noninterference")?;
        for vm in &mut system.vms {
            vm.vcpus = options.smp.clamp(1, 2);
        }
        let built = builder.hypervisor(program::Variant::Plain)?;
        let memory_mib = 128;
        let mut assembly = build(&system, builder, memory_mib)?;
        if options.profile == Which::Strict {
            assembly.policy.profile = Profile::Strict(Schedule { slots: slots() });
        }
        let folder = tree::work();
        // Files of this run's own, so that builds and other runs may go on beside it.
        let own = |extension| folder.join(format!("noninterference-{}.{extension}", std::process::id()));
        let [hypervisor, image, serial] = ["elf", "img", "serial"].map(own);
        std::fs::copy(&built, &hypervisor).context(hypervisor.display())?;
        let files = [hypervisor.clone(), image.clone(), serial.clone()];
        let boot = Boot::Direct { hypervisor, image: image.clone() };
        let machine = Machine {
            program,
            boot,
            smp: options.smp,
            memory_mib,
            cpu: "max".to_owned(),
            icount: true,
            // Its firmware takes less time than that of others.
            more: vec!["-M".to_owned(), "pc".to_owned()],
        };
        Ok(Test { assembly, machine, image, serial, files, span: options.span })
    }

    /// What `low` prints last when `high` has a secret.
    fn digest(&mut self, secret: u64) -> Result<String, Failure> {
        let lines = self.observe(secret, false)?;
        Ok(lines.last().cloned().unwrap_or_default())
    }

    /// Runs twice more, with all observations written, and says where they part.
    fn show_difference(&mut self, one: u64, other: u64) -> Result<(), Failure> {
        let (one, other) = (self.observe(one, true)?, self.observe(other, true)?);
        let first = one.iter().zip(&other).position(|(a, b)| a != b);
        match first {
            None => println!("what `low` keeps is equal: the difference lies in clock readings between"),
            Some(index) => {
                let from = index.saturating_sub(4);
                for (number, (a, b)) in (from..).zip(one.iter().zip(&other).skip(from).take(10)) {
                    println!("  {number:5} {a:40} {}", if a == b { "=" } else { b });
                }
            }
        }
        Ok(())
    }

    /// Boots with a secret; the lines of `low`, digest last.
    fn observe(&mut self, secret: u64, all: bool) -> Result<Vec<String>, Failure> {
        let span = self.span;
        let texts = [format!("{span}{}", if all { " all" } else { "" }), format!("{secret:016x} {}", span + 4)];
        for (vm, text) in self.assembly.manifest.vms.iter_mut().zip(texts) {
            vm.command_line = text;
        }
        cmd::write(&self.image, &pack::pack(&self.assembly)?)?;
        let file = std::fs::File::create(&self.serial).context(self.serial.display())?;
        let mut running = self.machine.start_into(file)?;
        let begin = Instant::now();
        loop {
            let ended = running.child.try_wait().context("waiting for QEMU")?.is_some();
            if let Some(lines) = seen(&self.serial)? {
                return Ok(lines);
            }
            if ended || begin.elapsed() > TIMEOUT {
                let text = std::fs::read_to_string(&self.serial).unwrap_or_default();
                return Err(Failure::new(Exit::Unmet, format_args!("{text}\nerror: `low` did not come to its end")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The slots as the policy has them.
pub fn slots() -> Vec<Slot> {
    let slot = |(micros, vm): (u64, Option<u32>)| Slot {
        duration_ns: micros * 1_000,
        vms: vm.into_iter().map(VmId).collect(),
    };
    SLOTS.map(slot).into()
}

/// What `low` wrote, when its digest is there.
fn seen(serial: &Path) -> Result<Option<Vec<String>>, Failure> {
    let bytes = std::fs::read(serial).context(serial.display())?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let own = lines.filter_map(|line| {
        // Records and the line of the console in front may stand around it.
        let (_, text) = line.rsplit_once("[low] ")?;
        let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != ' ').unwrap_or(text.len());
        let text = text.get(..end)?;
        (text.starts_with("seen ") || text.starts_with("digest ")).then(|| text.to_owned())
    });
    let own: Vec<String> = own.collect();
    Ok(own.last().is_some_and(|line| line.starts_with("digest ")).then_some(own))
}
