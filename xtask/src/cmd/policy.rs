//! `policy`: checks, explains, draws and tests the policy of a system.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use protocol::policy::{Decision, Operation, Profile, Subject, allows};

use super::{load, refused, write};
use crate::error::{Exit, Failure, codes};
use crate::policy::flow::Flows;
use crate::policy::{self, Compiled, explain, graph};
use crate::system::document::{ConfigError, Place};
use crate::system::processor::warnings;
use crate::tree;

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// FILE is a system, by name or path, or a policy file (`*.policy.toml`) by itself.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check a policy; say its hash and which flows it makes possible.
    Check {
        /// A system, or a policy file.
        file: String,
    },
    /// Say what the policy decides, by which rule, and why: `explain FILE A -> B OPERATION`.
    #[command(allow_hyphen_values = true)]
    Explain {
        /// A system, or a policy file.
        file: String,
        /// The VM that acts, the one that is reached (an arrow may stand between), the operation.
        #[arg(num_args = 1.., required = true, allow_hyphen_values = true)]
        question: Vec<String>,
    },
    /// Draw the flows of a policy as an SVG.
    Graph {
        /// A system, or a policy file.
        file: String,
        /// Where to write (otherwise below target/cloister).
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Compare the policy with the [[expect]] tables of its file.
    Test {
        /// A system, or a policy file.
        file: String,
    },
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    match &options.command {
        Command::Check { file } if file.ends_with(".policy.toml") => check(&compiled(file)?),
        Command::Check { file } => {
            let system = load(file)?;
            warnings(&system).iter().for_each(|warning| println!("{warning}"));
            check(&system.policy)
        }
        Command::Explain { file, question } => explain(&compiled(file)?, question),
        Command::Graph { file, output } => draw(file, output.as_deref()),
        Command::Test { file } => test(&compiled(file)?),
    }
}

/// The policy of a system or of a file.
fn compiled(file: &str) -> Result<Compiled, Failure> {
    if file.ends_with(".policy.toml") {
        return policy::alone(Path::new(file)).map_err(|errors| refused(&errors));
    }
    Ok(load(file)?.policy)
}

/// Says what a good policy is.
fn check(compiled: &Compiled) -> Result<Exit, Failure> {
    let policy = &compiled.policy;
    let (bytes, hash) = policy::encode(policy)?;
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("policy of {} bytes, SHA-256 {hash}", bytes.len());
    match &policy.profile {
        Profile::Shared => println!("profile shared"),
        Profile::Strict(schedule) => {
            let frame: u64 = schedule.slots.iter().map(|slot| slot.duration_ns / 1000).sum();
            println!("profile strict: {} slots in a frame of {frame} us", schedule.slots.len());
        }
    }
    for subject in &policy.subjects {
        let roles: Vec<&str> = subject.roles.iter().map(|role| role.name()).collect();
        let roles = if roles.is_empty() { String::new() } else { format!(", {}", roles.join(", ")) };
        let trust = if subject.trust.is_some() { ", trusted" } else { "" };
        println!("  {}: {}{roles}{trust}", subject.name, subject.label_text);
    }
    let flows = Flows::of(policy);
    let name = |vm: protocol::VmId| policy.subjects.get(vm.0 as usize).map_or("?", |subject| subject.name.as_str());
    for (from, to) in flows.pairs() {
        let path = flows.path(from, to).unwrap_or_default();
        let path: Vec<&str> = path.into_iter().map(name).collect();
        println!("  flow {}", path.join(" -> "));
    }
    Ok(Exit::Success)
}

/// Answers one question.
fn explain(compiled: &Compiled, question: &[String]) -> Result<Exit, Failure> {
    let words: Vec<&str> = question.iter().flat_map(|word| word.split([' ', ','])).collect();
    let words: Vec<&str> =
        words.into_iter().flat_map(|word| word.split("->")).filter(|word| !word.is_empty()).collect();
    let [from, to, operation] = words.as_slice() else {
        return Err(Failure::usage("the question reads: A B OPERATION, or \"A -> B OPERATION\""));
    };
    let [subject, object] = [find(compiled, from)?, find(compiled, to)?];
    let Some(operation) = Operation::ALL.iter().find(|known| known.name() == *operation) else {
        let known: Vec<&str> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        return Err(Failure::usage(format_args!(
            "no operation is called `{operation}`; they are: {}",
            known.join(", ")
        )));
    };
    let lines = explain::explain(&compiled.names(), subject, *operation, object);
    let decision = allows(subject, *operation, object);
    let head = match decision {
        Decision::Refused => refusal_head(compiled, subject, *operation, object),
        Decision::ByRule => format!("allowed: {} -> {}, {}", subject.name, object.name, operation.name()),
        Decision::ByTrust => format!("allowed by trust: {} -> {}, {}", subject.name, object.name, operation.name()),
    };
    println!("{head}");
    for line in lines {
        println!("  {line}");
    }
    Ok(if decision == Decision::Refused { Exit::Unmet } else { Exit::Success })
}

/// A refusal with its code, and the line that gives the subject its label.
fn refusal_head(compiled: &Compiled, subject: &Subject, operation: Operation, object: &Subject) -> String {
    let what = explain::refusal(subject, operation, object);
    let place = compiled.file.as_ref().and_then(|file| {
        let name = file.place_of(&subject.name)?;
        Some(format!(", {}:{}", file.file, name.place.line))
    });
    format!("error[{}]: {what}{}", codes::MAC_REFUSED.id, place.unwrap_or_default())
}

/// A VM of the policy.
fn find<'c>(compiled: &'c Compiled, name: &str) -> Result<&'c Subject, Failure> {
    let subjects = &compiled.policy.subjects;
    subjects.iter().find(|subject| subject.name == name).ok_or_else(|| {
        let known: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        Failure::usage(format_args!("no VM is called `{name}`; there are: {}", known.join(", ")))
    })
}

/// Writes the drawing.
fn draw(file: &str, output: Option<&Path>) -> Result<Exit, Failure> {
    let compiled = compiled(file)?;
    let title = Path::new(file).file_name().map_or_else(|| file.to_owned(), |name| name.to_string_lossy().into_owned());
    let drawing = graph::svg(&title, &compiled.policy, &compiled.names());
    let path =
        output.map_or_else(|| tree::work().join(format!("{}.svg", title.trim_end_matches(".toml"))), Path::to_owned);
    write(&path, drawing.as_bytes())?;
    println!("{}", tree::shown(&path));
    Ok(Exit::Success)
}

/// Checks every `[[expect]]`.
fn test(compiled: &Compiled) -> Result<Exit, Failure> {
    let Some(file) = &compiled.file else {
        return Err(Failure::usage("the system has no policy file, so nothing is expected of it"));
    };
    let mut errors: Vec<ConfigError> = Vec::new();
    for expectation in &file.expectations {
        let [from, to] = &expectation.flow.ends;
        let [subject, object] = [find(compiled, from)?, find(compiled, to)?];
        let is_allowed = allows(subject, expectation.operation, object) != Decision::Refused;
        if is_allowed != expectation.allowed {
            let what = explain::refusal(subject, expectation.operation, object);
            let said = if is_allowed { "allowed" } else { "refused" };
            errors.push(file.error(codes::MAC_EXPECTATION, &expectation.flow.place, format!("{what}: {said}")));
        }
    }
    if file.expectations.is_empty() {
        let place = Place::default();
        errors.push(file.error(codes::MAC_EXPECTATION, &place, "the file has no [[expect]], so nothing was tested"));
    }
    if !errors.is_empty() {
        return Err(Failure::new(Exit::Unmet, refused(&errors)));
    }
    println!("{} expectations hold", file.expectations.len());
    Ok(Exit::Success)
}
