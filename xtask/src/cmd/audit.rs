//! `audit`: lists the sensitive instructions of guests, or of any x86-64 ELF file.

use std::path::Path;

use clap::Args;

use super::{load, profile, system_names};
use crate::audit::allow::{self, Allowance, Package};
use crate::audit::{self, Report, json, sarif, text};
use crate::build::Builder;
use crate::error::codes::{self, Code};
use crate::error::{Context, Exit, Failure};
use crate::system::Artifact;
use crate::system::assemble::{Artifacts, Missing};
use crate::{kernel, term, tree};

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct Options {
    /// What to audit: a system, a guest package, or the path of an ELF file or Linux kernel.
    /// Without any, every guest of this checkout.
    targets: Vec<String>,
    /// Decodes at every byte offset, not only where an instruction begins.
    #[arg(long)]
    every_offset: bool,
    /// Fails on noted and hidden instructions too.
    #[arg(long)]
    strict: bool,
    /// Shows every site of every rule.
    #[arg(long)]
    all: bool,
    /// Prints one JSON document.
    #[arg(long, conflicts_with = "sarif")]
    json: bool,
    /// Prints one SARIF 2.1.0 document.
    #[arg(long)]
    sarif: bool,
    /// Builds guests without optimisation.
    #[arg(long)]
    debug: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let mut builder = Builder::new(profile(options.debug));
    let mut subjects = Vec::new();
    if options.targets.is_empty() {
        subjects = guests()?;
    }
    for target in &options.targets {
        for subject in resolve(target)? {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
    }
    let reports = audit_all(&subjects, &mut builder, options.every_offset)?;
    if options.json {
        println!("{:#}", json::document(&reports, options.strict));
    } else if options.sarif {
        println!("{:#}", sarif::document(&reports));
    } else {
        let style = text::Style { colours: term::colours(), all: options.all, strict: options.strict };
        for report in &reports {
            print!("{}", text::report(report, style));
        }
        print!("{}", text::summary(&reports));
    }
    match complaints(&reports, options.strict) {
        None => Ok(Exit::Success),
        Some(text) => Err(Failure::new(Exit::Unmet, text)),
    }
}

/// What is to be audited: a program and what its manifest allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    name: String,
    artifact: Artifact,
    allowances: Vec<Allowance>,
}

/// Every program of the checkout that runs in a VM.
pub fn guests() -> Result<Vec<Subject>, Failure> {
    let folder = tree::root().join("guest-kernels");
    // What a kernel of Xen's ABI executes is emulated, so its instructions say nothing.
    let is_native = |manifest: &Path| manifest.starts_with(&folder) && !manifest.starts_with(folder.join("xen"));
    let mut subjects = Vec::new();
    for package in workspace(&tree::root())?.iter().filter(|package| is_native(&package.manifest)) {
        subjects.extend(of_package(package)?);
    }
    Ok(subjects)
}

/// The packages of a folder's workspace.
fn workspace(folder: &Path) -> Result<Vec<Package>, Failure> {
    allow::packages(folder)
        .ok_or_else(|| Failure::usage(format_args!("cargo metadata does not run in `{}`", folder.display())))
}

/// The programs of a package.
fn of_package(package: &Package) -> Result<Vec<Subject>, Failure> {
    let allowances = package.allowances.clone().map_err(|what| {
        let manifest = tree::shown(&package.manifest);
        refused(codes::AUDIT_METADATA, Exit::Usage, &format!("{manifest}: {what}"))
    })?;
    let several = package.programs.len() > 1;
    let subject = |program: &String| Subject {
        name: program.clone(),
        // As system files name it, so that it is built once.
        artifact: Artifact::Package(package.name.clone(), several.then(|| program.clone())),
        allowances: allowances.clone(),
    };
    Ok(package.programs.iter().map(subject).collect())
}

/// What a target means.
fn resolve(target: &str) -> Result<Vec<Subject>, Failure> {
    let path = Path::new(target);
    if target.ends_with(".toml") || system_names().iter().any(|name| name == target) {
        return of_system(target);
    }
    if target.contains('/') || path.is_file() {
        let artifact = Artifact::File(path.to_path_buf());
        let name = path.file_name().map_or_else(|| target.to_owned(), |name| name.to_string_lossy().into_owned());
        return Ok(vec![Subject { name, artifact, allowances: Vec::new() }]);
    }
    let packages = workspace(&tree::root())?;
    match packages.iter().find(|package| package.name == target && !package.programs.is_empty()) {
        Some(package) => of_package(package),
        None => {
            let what = format!("`{target}` is no system, no guest package and no file");
            Err(refused(codes::AUDIT_TARGET, Exit::Usage, &what))
        }
    }
}

/// Kernels and modules of a system, each with the allowances of its package.
fn of_system(name: &str) -> Result<Vec<Subject>, Failure> {
    let system = load(name)?;
    let here = workspace(&tree::root())?;
    let mut subjects: Vec<Subject> = Vec::new();
    let programs = system.vms.iter().flat_map(|vm| {
        let kernel = (vm.name.clone(), &vm.kernel.value);
        let modules = vm.modules.iter().map(|module| (format!("{}/{}", vm.name, module.name), &module.source.value));
        std::iter::once(kernel).chain(modules).collect::<Vec<_>>()
    });
    for (name, artifact) in programs {
        if subjects.iter().any(|subject| subject.artifact == *artifact) {
            continue;
        }
        let allowances = match artifact {
            Artifact::Package(package, bin) => {
                let package = here.iter().find(|other| other.name == *package);
                package.map(|package| one_of(package, bin.as_deref())).transpose()?
            }
            Artifact::Folder(folder, bin) => {
                let manifest = folder.join("Cargo.toml").canonicalize().unwrap_or_default();
                let packages = workspace(folder)?;
                let package = packages.iter().find(|package| package.manifest == manifest);
                package.map(|package| one_of(package, bin.as_deref())).transpose()?
            }
            Artifact::File(_) | Artifact::Made(_) | Artifact::DebianKernel(_) | Artifact::Busybox => None,
        };
        subjects.push(Subject { name, artifact: artifact.clone(), allowances: allowances.unwrap_or_default() });
    }
    Ok(subjects)
}

/// The allowances of a package for one of its programs.
fn one_of(package: &Package, bin: Option<&str>) -> Result<Vec<Allowance>, Failure> {
    let subjects = of_package(package)?;
    let found = subjects.into_iter().find(|subject| bin.is_none_or(|bin| bin == subject.name));
    Ok(found.map(|subject| subject.allowances).unwrap_or_default())
}

/// Builds and audits.
pub fn audit_all(subjects: &[Subject], builder: &mut Builder, every_offset: bool) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for subject in subjects {
        let file = builder.obtain(&subject.artifact).map_err(|missing| match missing {
            Missing::Absent(what) => refused(codes::AUDIT_TARGET, Exit::Usage, &what),
            Missing::Broken(what) => refused(codes::KERNEL_BUILD, Exit::Usage, &what),
            Missing::Package(what) => refused(codes::PACKAGE, Exit::Unfit, &what),
        })?;
        reports.push(audit_file(subject, &file, every_offset)?);
    }
    Ok(reports)
}

/// Audits one file.
fn audit_file(subject: &Subject, file: &Path, every_offset: bool) -> Result<Report, Failure> {
    let data = std::fs::read(file).context(file.display())?;
    let shown = tree::shown(file);
    let unreadable = |what: String| refused(codes::AUDIT_FILE, Exit::Usage, &format!("`{shown}`: {what}"));
    let data = kernel::extract(data).map_err(|fault| unreadable(fault.to_string()))?;
    audit::audit(&subject.name, &shown, &data, &subject.allowances, every_offset).map_err(|what| unreadable(what.0))
}

/// Why an audit fails, if it does.
pub fn complaints(reports: &[Report], strict: bool) -> Option<String> {
    let failures: usize = reports.iter().map(|report| report.failures(strict)).sum();
    let mut texts = Vec::new();
    if failures > 0 {
        let with: Vec<&str> =
            reports.iter().filter(|report| report.failures(strict) > 0).map(|report| report.name.as_str()).collect();
        let what = format!("{failures} sensitive instructions in {}", with.join(", "));
        texts.push(refused(codes::AUDIT_FOUND, Exit::Unmet, &what).message);
    }
    for report in reports {
        for stale in &report.stale {
            let what = format!("{}: {stale}", report.name);
            texts.push(refused(codes::AUDIT_STALE, Exit::Unmet, &what).message);
        }
    }
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// A failure with a stable code.
fn refused(code: &Code, exit: Exit, what: &str) -> Failure {
    Failure::new(
        exit,
        format_args!(
            "error[{}]: {}: {what}\n  try: {}\n  see: docs/errors/{}.md",
            code.id, code.title, code.remedy, code.id
        ),
    )
}
