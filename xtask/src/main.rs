//! `cargo xtask`: builds, packs, boots, tests and explains Cloister.
//!
//! This file reads arguments and hands them to one file of `cmd` each. Exit codes are those of
//! [`error::Exit`], the same for every command.

mod audit;
mod build;
mod cmd;
mod conformance;
mod console;
mod decode;
mod elf;
mod error;
mod generate;
mod host;
mod initramfs;
mod kernel;
mod lint;
mod pack;
mod policy;
mod qemu;
mod report;
mod session;
mod system;
mod term;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The help text about exit codes; the table in `error` is the same.
const EXIT_CODES: &str = "\
Exit codes:
  0  all went well (every --expect was seen, the script ended, or every VM ended well)
  1  wrong usage, or a build failed
  2  the system file has an error
  3  a VM crashed or ended with a code other than 0
  4  the hypervisor panicked or the machine reset
  5  the time was over
  6  unfit: a tool is missing here, or the hypervisor refused the machine or the image
  7  it ended before everything expected was seen, or a test failed";

/// Cloister's workbench.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// The commands, one file of `cmd` each.
#[derive(Debug, Subcommand)]
enum Command {
    /// Say what this machine lacks, and the command that gets it.
    Doctor(cmd::doctor::Options),
    /// Build a system, boot it in QEMU and show its consoles.
    Run(cmd::run::Options),
    /// Run the tests: on the host, in guests, or all.
    Test(cmd::test::Options),
    /// Run random hypercall programs from a seed, or hypervisors that lack a check.
    Hostile(cmd::hostile::Options),
    /// Write a system image, or with --iso a disk that any PC boots.
    Image(cmd::image::Options),
    /// Write a new guest kernel outside this repository.
    New(cmd::new::Options),
    /// Write the C header from the protocol's tables.
    Header(cmd::CheckOption),
    /// Write the reference pages from the protocol's tables.
    Reference(cmd::CheckOption),
    /// Check and show the audit log of a run.
    AuditLog(cmd::audit_log::Options),
    /// Look at what a serial line said.
    Log(cmd::log::Options),
    /// Count virtual instructions per operation.
    Bench(cmd::bench::Options),
    /// List the instructions of guests that do not trap as they should, and what to write instead.
    Audit(cmd::audit::Options),
    /// Check, explain, draw or test the policy of a system.
    Policy(cmd::policy::Options),
    /// Run the conformance suite and show what of the ABI it covers.
    Conformance(cmd::conformance::Options),
    /// Feed arbitrary input to what reads input.
    Fuzz(cmd::fuzz::Options),
    /// Boot a system again and again with other secrets and compare what a VM without them sees.
    Noninterference(cmd::noninterference::Options),
    /// Measure how many bits a second a VM can tell another by a resource that they share.
    Channels(cmd::channels::Options),
    /// Check the rules that no other tool checks.
    Lint(cmd::lint::Options),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nothing can be done when even this cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::from(wrong));
        }
    };
    let result = match arguments.command {
        Command::Doctor(options) => cmd::doctor::run(&options),
        Command::Run(options) => cmd::run::run(&options),
        Command::Test(options) => cmd::test::run(&options),
        Command::Hostile(options) => cmd::hostile::run(&options),
        Command::Image(options) => cmd::image::run(&options),
        Command::New(options) => cmd::new::run(&options),
        Command::Header(option) => cmd::header::write(option.check).map(|()| error::Exit::Success),
        Command::Reference(option) => cmd::reference::write(option.check).map(|()| error::Exit::Success),
        Command::AuditLog(options) => cmd::audit_log::run(&options),
        Command::Log(options) => cmd::log::run(&options),
        Command::Bench(options) => cmd::bench::run(&options),
        Command::Audit(options) => cmd::audit::run(&options),
        Command::Conformance(options) => cmd::conformance::run(&options),
        Command::Fuzz(options) => cmd::fuzz::run(&options),
        Command::Noninterference(options) => cmd::noninterference::run(&options),
        Command::Channels(options) => cmd::channels::run(&options),
        Command::Lint(options) => cmd::lint::run(&options),
        Command::Policy(options) => cmd::policy::run(&options),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_of_all_commands_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
