//! `channels`: how many bits a second one VM can tell another that it must not tell anything. The system `channels` is
//! booted under the instruction clock; VM `high` modulates one resource by bits, VM `low` measures. Half of what it saw
//! teaches the decoder where the threshold lies, the other half counts its errors. In the strict profile, what `low`
//! sees for two strings of bits is compared besides: where it is equal, nothing can be decoded at all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use protocol::policy::{Profile, Schedule};

use super::noninterference::{Which, slots};
use super::{build, load};
use crate::build::{self as program, Builder};
use crate::error::{Context, Exit, Failure};
use crate::generate::table;
use crate::host::fetch;
use crate::qemu::{Boot, Machine, Program};
use crate::system::assemble::Assembly;
use crate::{cmd, pack, tree};

/// Arguments of `channels`.
#[derive(Debug, Args)]
pub struct Options {
    /// Milliseconds of a run in which symbols are sent; twice as many where a symbol takes long. A channel of less
    /// than about 14,000 bits a second divided by it is not told from noise.
    #[arg(long, default_value_t = 2_000)]
    span: u64,
    /// Only resources whose name holds this text; writes no page.
    #[arg(long)]
    filter: Option<String>,
    /// Only this profile; the other columns say so.
    #[arg(long, value_enum)]
    profile: Option<Which>,
    /// Prints what `low` saw.
    #[arg(long)]
    raw: bool,
}

/// A resource by which one VM may tell another something.
struct Resource {
    /// As the guests call it.
    name: &'static str,
    /// What the sender does, and what the receiver looks at.
    what: &'static str,
    /// Whether a symbol needs a VM to be built again.
    is_slow: bool,
}

const fn resource(name: &'static str, what: &'static str) -> Resource {
    Resource { name, what, is_slow: false }
}

/// All that are measured.
const RESOURCES: [Resource; 10] = [
    resource("cpu", "computes on all vCPUs, or sleeps / how often the clock can be read, and the longest gap"),
    resource("steal", "the same / `steal_time_ns` of the vCPU's page"),
    resource("wake", "the same / how late a sleep of 30 us ends"),
    resource("event", "sleeps until an event, or looks for one awake / how long `event_send` to it takes"),
    resource("console", "writes without end, or asks for facts / how long `console_write` takes"),
    resource("audit", "is refused without end, or asks for facts / how long a refused call takes"),
    resource("memory", "makes and destroys spaces, or asks for facts / how long a page takes to map and unmap"),
    resource("grant", "maps what is granted to it, or not / how long `grant_revoke` takes"),
    Resource { is_slow: true, ..resource("rebuild", "dies and is built again, or asks for facts / the clock") },
    Resource { is_slow: true, ..resource("search", "the same / how long it takes itself to be built again") },
];

/// Microseconds of a symbol that are tried.
const fn periods(profile: Which, is_slow: bool) -> &'static [u64] {
    match (profile, is_slow) {
        (Which::Shared, false) => &[500],
        (Which::Shared, true) => &[32_000],
        // A multiple of the frame.
        (Which::Strict, false) => &[8_000],
        (Which::Strict, true) => &[64_000],
    }
}

/// When the first symbol begins, in microseconds of the machine's counter: long behind the start of all VMs.
const START: u64 = 700_000;
/// Patience with one run.
const TIMEOUT: Duration = Duration::from_secs(240);
/// Standard deviations from guessing that a decoder must be better by: one of a thousand guesses is.
const SIGNIFICANT: f64 = 3.1;
/// Titles of its columns.
const HEAD: [&str; 6] =
    ["resource", "sender / receiver", "shared, 1 CPU", "shared, 2 CPUs", "strict, 1 CPU", "strict, 2 CPUs"];
/// Where the table stands.
const PAGE: &str = "docs/security/covert-channels.md";
/// What stands around it.
const MARKS: [&str; 2] = ["<!-- Written by `cargo xtask channels`. -->\n", "<!-- End of what it writes. -->\n"];

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let mut lab = Lab::new(options)?;
    let is_wanted =
        |resource: &&Resource| options.filter.as_ref().is_none_or(|text| resource.name.contains(text.as_str()));
    let mut rows = Vec::new();
    for resource in RESOURCES.iter().filter(is_wanted) {
        let mut cells = vec![resource.name.to_owned(), resource.what.to_owned()];
        for profile in [Which::Shared, Which::Strict] {
            if options.profile.is_some_and(|only| only != profile) {
                cells.extend(["not run", "not run"].map(str::to_owned));
                continue;
            }
            for smp in [1, 2] {
                let found = lab.measure(resource, profile, smp)?;
                println!("{:8} {profile:?} {smp} CPUs: {found}", resource.name);
                cells.push(found.to_string());
            }
        }
        rows.push(cells);
        if options.filter.is_none() {
            // After each row: a run takes long, and what is measured is measured.
            write(&table(&HEAD, &rows))?;
        }
    }
    Ok(Exit::Success)
}

/// Puts the table into its page.
fn write(table: &str) -> Result<(), Failure> {
    let path = tree::root().join(PAGE);
    let text = std::fs::read_to_string(&path).context(PAGE)?;
    let [begin, end] = MARKS;
    let around = text.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, behind) = around.ok_or_else(|| Failure::usage(format_args!("{PAGE} has no marks for the table")))?;
    cmd::write(&path, format!("{before}{begin}\n{table}\n{end}{behind}").as_bytes())
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    /// Symbols of so many microseconds were told apart, with so many errors.
    Channel { period: u64, errors: usize, tested: usize },
    /// No better than guessing; so many bits a second would have been found. And whether a run with the same bits would
    /// have shown the same, where that was tried.
    Nothing { below: f64, repeats: Option<bool> },
    /// What was seen is the same whatever was sent.
    Equal { symbols: usize },
    /// The line lost too much of what the receiver wrote.
    Unseen,
}

impl Found {
    /// Bits a second: the capacity of a binary symmetric channel with that share of errors.
    fn bits_per_second(self) -> f64 {
        match self {
            Found::Channel { period, errors, tested } => capacity(share(errors, tested)) * rate(period),
            Found::Nothing { .. } | Found::Equal { .. } | Found::Unseen => 0.0,
        }
    }

    /// Whether errors of a decoder are too few for guessing.
    fn of(period: u64, errors: usize, tested: usize) -> Found {
        let deviation = SIGNIFICANT * number(tested).sqrt() / 2.0;
        let most = number(tested) / 2.0 - deviation;
        if number(errors) <= most {
            Found::Channel { period, errors, tested }
        } else {
            Found::Nothing { below: capacity((most / number(tested)).max(0.0)) * rate(period), repeats: None }
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Channel { period, errors, tested } => write!(
                f,
                "{:.1} b/s ({} ms a symbol, {errors} of {tested} wrong)",
                self.bits_per_second(),
                number(usize::try_from(*period).unwrap_or(0)) / 1_000.0
            ),
            Found::Nothing { below, repeats: Some(false) } => {
                write!(f, "none found (below {below:.1} b/s; runs with the same bits differ too)")
            }
            Found::Nothing { below, .. } => write!(f, "none found (below {below:.1} b/s)"),
            Found::Equal { symbols } => write!(f, "0 (equal in {symbols} symbols)"),
            Found::Unseen => write!(f, "not measured (lines lost)"),
        }
    }
}

/// A count for computing with.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts of symbols are small")]
const fn number(count: usize) -> f64 {
    count as f64
}

fn share(part: usize, whole: usize) -> f64 {
    number(part) / number(whole.max(1))
}

/// Symbols a second.
fn rate(period: u64) -> f64 {
    1_000_000.0 / number(usize::try_from(period).unwrap_or(usize::MAX)).max(1.0)
}

/// Bits of a symbol that arrive through a binary symmetric channel.
fn capacity(errors: f64) -> f64 {
    let part = |p: f64| if p <= 0.0 { 0.0 } else { -p * p.log2() };
    1.0 - part(errors) - part(1.0 - errors)
}

/// What was seen of one symbol: how often, the shortest and the longest time.
type Seen = [u64; 3];

/// What all runs need.
struct Lab {
    builder: Builder,
    program: Program,
    hypervisor: PathBuf,
    span: u64,
    raw: bool,
}

impl Lab {
    fn new(options: &Options) -> Result<Lab, Failure> {
        fetch::ensure_target()?;
        let program = fetch::ready()?;
        let mut builder = Builder::new(program::Profile::Release);
        // A copy: whoever builds another variant meanwhile puts it in the same place.
        let hypervisor = tree::work().join("hv-channels");
        let built = builder.hypervisor(program::Variant::Plain)?;
        std::fs::copy(&built, &hypervisor).context(built.display())?;
        Ok(Lab { builder, program, hypervisor, span: options.span, raw: options.raw })
    }

    /// The best of all periods.
    fn measure(&mut self, resource: &Resource, profile: Which, smp: u32) -> Result<Found, Failure> {
        let mut best: Option<Found> = None;
        for period in periods(profile, resource.is_slow) {
            let found = self.one(resource, profile, smp, *period)?;
            let is_better = best.is_none_or(|best| match (best, found) {
                (Found::Nothing { below, .. }, Found::Nothing { below: now, .. }) => now > below,
                _ => found.bits_per_second() > best.bits_per_second(),
            });
            if is_better {
                best = Some(found);
            }
        }
        best.ok_or_else(|| Failure::usage("no period is tried"))
    }

    fn one(&mut self, resource: &Resource, profile: Which, smp: u32, period: u64) -> Result<Found, Failure> {
        let span = self.span.saturating_mul(if resource.is_slow { 2_000 } else { 1_000 });
        let symbols = (span / period).max(16);
        let plan = |seed: u64| format!("{} {START} {period} {symbols} {seed:x}", resource.name);
        let mut run = |seed: u64| self.run(profile, smp, &plan(seed));
        let seen = run(1)?;
        let mut repeated = None;
        if profile == Which::Strict {
            if is_equal(&seen, &run(2)?) {
                return Ok(Found::Equal { symbols: seen.len() });
            }
            repeated = Some(is_equal(&seen, &run(1)?));
        }
        let bits: BTreeMap<u64, bool> = (0..symbols).map(|symbol| (symbol, bit(1, symbol))).collect();
        if seen.len() < bits.len() * 3 / 4 {
            println!("{}: only {} of {symbols} symbols were seen", resource.name, seen.len());
            return Ok(Found::Unseen);
        }
        if self.raw {
            for (symbol, values) in &seen {
                println!("{symbol:5} {} {values:?}", u8::from(bits.get(symbol) == Some(&true)));
            }
        }
        let (errors, tested) = decode(&seen, &bits);
        Ok(match Found::of(period, errors, tested) {
            Found::Nothing { below, .. } => Found::Nothing { below, repeats: repeated },
            found => found,
        })
    }

    /// Boots once; what `low` saw.
    fn run(&mut self, profile: Which, smp: u32, plan: &str) -> Result<BTreeMap<u64, Seen>, Failure> {
        let mut system = load("channels")?;
        for (vm, role) in system.vms.iter_mut().zip(["receive", "send"]) {
            vm.command_line = format!("{role} {plan}");
            vm.vcpus = if role == "send" { smp } else { 1 };
        }
        let memory_mib = 128;
        let mut assembly: Assembly = build(&system, &mut self.builder, memory_mib)?;
        if profile == Which::Strict {
            assembly.policy.profile = Profile::Strict(Schedule { slots: slots() });
        }
        let [image, serial] = ["img", "serial"].map(|extension| tree::work().join(format!("channels.{extension}")));
        cmd::write(&image, &pack::pack(&assembly)?)?;
        let machine = Machine {
            program: self.program.clone(),
            boot: Boot::Direct { hypervisor: self.hypervisor.clone(), image },
            smp,
            memory_mib,
            cpu: "max".to_owned(),
            icount: true,
            more: Vec::new(),
        };
        let mut running = machine.start_into(std::fs::File::create(&serial).context(serial.display())?)?;
        let begin = Instant::now();
        loop {
            let ended = running.child.try_wait().context("waiting for QEMU")?.is_some();
            let bytes = std::fs::read(&serial).context(serial.display())?;
            let text = String::from_utf8_lossy(&bytes);
            if text.contains("[low] all seen") || ended {
                return Ok(seen(&text));
            }
            if text.contains("cloister: panic") || begin.elapsed() > TIMEOUT {
                return Err(Failure::new(Exit::Unmet, format_args!("{text}\nerror: `low` did not come to its end")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether two runs showed the same, as far as the line carried it; shows the first symbols in which they differ.
fn is_equal(one: &BTreeMap<u64, Seen>, other: &BTreeMap<u64, Seen>) -> bool {
    let both = one.iter().filter_map(|(symbol, values)| Some((symbol, values, other.get(symbol)?)));
    let different: Vec<_> = both.filter(|(_, values, others)| values != others).collect();
    for (symbol, values, others) in different.iter().take(3) {
        println!("symbol {symbol}: {values:?} and {others:?}, of {} that differ", different.len());
    }
    different.is_empty() && !one.is_empty() && !other.is_empty()
}

/// The bit of a symbol, as the guests have it.
const fn bit(seed: u64, symbol: u64) -> bool {
    let state = seed.wrapping_add(symbol.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) & 1 == 1
}

/// What `low` wrote: `seen FIRST a.b.c a.b.c ...`, each line several times.
fn seen(text: &str) -> BTreeMap<u64, Seen> {
    let mut all = BTreeMap::new();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Some((_, line)) = line.rsplit_once("[low] seen ") else { continue };
        let mut words = line.split_whitespace();
        let Some(first) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        for (symbol, word) in (first..).zip(words) {
            let mut values = word.split('.').map(|value| u64::from_str_radix(value, 16));
            if let [Some(Ok(count)), Some(Ok(shortest)), Some(Ok(longest)), None] =
                [values.next(), values.next(), values.next(), values.next()]
            {
                all.insert(symbol, [count, shortest, longest]);
            }
        }
    }
    all
}

/// Learns from the first half of the symbols which value tells bits apart best, whether one symbol late, and where
/// between; counts errors in the second half. Returns these and how many symbols that half has.
fn decode(seen: &BTreeMap<u64, Seen>, bits: &BTreeMap<u64, bool>) -> (usize, usize) {
    let mut best: Option<(usize, (usize, usize))> = None;
    for value in 0..3 {
        for late in 0..2 {
            let pairs: Vec<(u64, bool)> = seen
                .iter()
                .filter_map(|(symbol, values)| Some((*values.get(value)?, *bits.get(&symbol.checked_sub(late)?)?)))
                .collect();
            let (learn, test) = pairs.split_at(pairs.len() / 2);
            let rule = learned(learn);
            let result = (wrong(learn, rule), (wrong(test, rule), test.len()));
            if best.is_none_or(|best| result.0 < best.0) {
                best = Some(result);
            }
        }
    }
    best.map_or((0, 0), |(_, tested)| tested)
}

/// A rule: above the threshold the bit is this.
type Threshold = (u64, bool);

/// The rule with the fewest errors.
fn learned(pairs: &[(u64, bool)]) -> Threshold {
    let rules = pairs.iter().flat_map(|(value, _)| [(*value, true), (*value, false)]);
    rules.min_by_key(|rule| wrong(pairs, *rule)).unwrap_or((0, true))
}

/// Errors of a rule.
fn wrong(pairs: &[(u64, bool)], (threshold, above): Threshold) -> usize {
    pairs.iter().filter(|(value, bit)| ((*value > threshold) == above) != *bit).count()
}

#[cfg(test)]
mod tests {
    use super::{Found, bit, capacity, decode, seen};
    use std::collections::BTreeMap;

    #[test]
    fn a_clear_signal_is_decoded_and_noise_is_not() {
        let bits: BTreeMap<u64, bool> = (0..400).map(|symbol| (symbol, bit(1, symbol))).collect();
        let of = |value: &dyn Fn(u64) -> u64| (0..400).map(|symbol| (symbol, [5, value(symbol), 9])).collect();
        let clear = of(&|symbol| 100 + symbol % 7 + 50 * u64::from(bit(1, symbol)));
        assert_eq!(decode(&clear, &bits), (0, 200));
        let late = of(&|symbol| 100 + symbol % 7 - 50 * u64::from(symbol > 0 && bit(1, symbol - 1)));
        assert_eq!(decode(&late, &bits).0, 0);
        let (errors, tested) = decode(&of(&|symbol| u64::from(bit(77, symbol))), &bits);
        assert!(
            matches!(Found::of(1_000, errors, tested), Found::Nothing { below, .. } if below > 0.0 && below < 60.0)
        );
    }

    #[test]
    fn capacity_is_that_of_a_binary_symmetric_channel() {
        assert!((capacity(0.0) - 1.0).abs() < 1e-9 && capacity(0.5).abs() < 1e-9);
        assert!((capacity(0.11) - 0.5).abs() < 0.001);
        let found = Found::of(2_000, 0, 100);
        assert!((found.bits_per_second() - 500.0).abs() < 1e-6, "{found}");
    }

    #[test]
    fn lines_are_found_between_others_and_damaged_words_are_left_out() {
        let text =
            "x\r[high] ...\r\n[low] seen 8 a.1.ff 0.0\r\n\x1b[0m\r[low] seen 16 1.2.3 4.5.6\r\n[low] seen 24 1.1.1";
        let all = seen(text);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [8, 16, 17]);
        assert_eq!(all.get(&8), Some(&[10, 1, 255]));
    }
}
