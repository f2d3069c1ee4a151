//! The stable codes of what xtask reports. `cargo xtask reference` writes a page for each into
//! `docs/errors/`. Append only: a code keeps its meaning for ever.

/// One code and what its page says.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Such as `HV-CFG-007`.
    pub id: &'static str,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// Why it is refused.
    pub why: &'static str,
    /// What to do; printed with the error unless it knows better.
    pub remedy: &'static str,
}

/// Declares the codes as constants and as one list.
macro_rules! codes {
    ($($name:ident = $id:literal, $title:literal, $why:literal, $remedy:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: &Code = &Code { id: $id, title: $title, why: $why, remedy: $remedy };
        )*

        /// Every code, in order.
        pub const ALL: &[&Code] = &[$($name,)*];
    };
}

codes! {
    FILE_UNREADABLE = "HV-CFG-001", "the system file cannot be read",
        "The path does not exist, is not a file, or may not be read.",
        "check the path; a name without a slash means a file of guest-kernels/systems";
    TOML = "HV-CFG-002", "the system file is not valid TOML",
        "A system file is TOML 1.0. The line says where the reader stopped.",
        "mend the line; texts stand in quotes, tables in [[vm]] brackets";
    UNKNOWN_KEY = "HV-CFG-003", "unknown key",
        "A key that nobody reads is a misspelling more often than not, so none is ignored.",
        "correct or remove the key";
    MISSING_KEY = "HV-CFG-004", "a key is missing",
        "The table cannot be understood without this key.",
        "add the key";
    WRONG_TYPE = "HV-CFG-005", "wrong type of value",
        "Each key takes one type of value: a text, a number, a list or a table.",
        "give a value of the type that the message names";
    BAD_VALUE = "HV-CFG-006", "value out of range",
        "The value is outside what the hypervisor can build.",
        "choose a value in the range that the message names";
    KERNEL_MISSING = "HV-CFG-007", "the kernel does not exist",
        "`kernel` names a package of this workspace, `crate` a folder with a Cargo.toml, `path` an ELF file; paths are relative to the system file.",
        "correct the name or build the file first";
    KERNEL_BUILD = "HV-CFG-008", "the kernel does not build",
        "Cargo (or make, with `make = true`) reported errors while building it.",
        "mend what stands above this message";
    NOT_A_KERNEL = "HV-CFG-009", "not an ELF file for this machine",
        "A guest kernel is a little-endian ELF64 file for x86-64.",
        "build it for the target x86_64-unknown-none";
    NOT_FIXED = "HV-CFG-010", "not an executable with fixed addresses",
        "The hypervisor relocates nothing: a kernel must be ET_EXEC. A position-independent executable is ET_DYN.",
        "link with --no-pie (the SDK's build script does)";
    NO_NOTE = "HV-CFG-011", "no ABI note",
        "A guest kernel says in an ELF note (section .note.cloister, owner Cloister, type 1) which wire version it was built for.",
        "link guest-sdk's entry, or add the note (guest-sdk/c/cloister.h has CLOISTER_ABI_NOTE)";
    ABI_VERSION = "HV-CFG-012", "ABI version mismatch",
        "The hypervisor serves guests of its own major version and of the same or an older minor version.",
        "rebuild the kernel with the SDK of this checkout";
    OVERLAP = "HV-CFG-013", "segments overlap",
        "Two segments lie in the same page, so it would need two contents or two protections.",
        "align the segments in the linker script to 4096 bytes";
    OUTSIDE = "HV-CFG-014", "a segment or the entry lies outside the kernel half",
        "Kernels live from 0xffff880000000000 on, apart from what the hypervisor maps there itself; lower addresses belong to processes and to the hypervisor.",
        "link at 0xffffffff80000000 (the SDK's linker script does)";
    TOO_MUCH_MEMORY = "HV-CFG-015", "the machine has too little memory for the system",
        "All memory of all VMs is taken when the system starts: nothing is overcommitted.",
        "give the VMs less `memory`, or the machine more with --mem";
    VM_TOO_SMALL = "HV-CFG-016", "the VM has too little memory for its kernel",
        "Kernel, modules, first stack and shared pages must fit into the VM's own memory.",
        "raise the VM's `memory`";
    DUPLICATE = "HV-CFG-017", "duplicate name",
        "Names tell VMs and channels apart, on the console and for the guests.",
        "rename one of them";
    CHANNEL_TO_NOBODY = "HV-CFG-018", "channel to nobody",
        "Both ends of a channel are VMs of the same system file.",
        "use the `name` of a [[vm]]";
    CHANNEL_TO_SELF = "HV-CFG-019", "channel of a VM to itself",
        "A channel connects two VMs; within one VM, memory is shared already.",
        "name two different VMs";
    LABELS = "HV-CFG-020", "the labels forbid the channel",
        "A channel carries data both ways, so each VM's label must allow flow to the other's: secrecy may not fall, integrity not rise.",
        "give both VMs the same label, or leave the channel out";
    TOO_MANY = "HV-CFG-021", "too many of them",
        "The hypervisor's tables have fixed sizes, so that nobody can fill them at another's cost.",
        "split the system";
    BAD_NAME = "HV-CFG-022", "bad name",
        "Names are 1 to 31 bytes of a-z, A-Z, 0-9, - and _, so that a console line cannot be forged with one.",
        "choose such a name";
    MODULE = "HV-CFG-023", "a module cannot be had",
        "`program` names a package of this workspace, `crate` a folder with a Cargo.toml, `path` any file; paths are relative to the system file.",
        "correct the name or make the file first";
    SOURCE = "HV-CFG-024", "one source is needed",
        "A kernel or module comes from exactly one place.",
        "keep one of the keys";
    TEST_TABLE = "HV-CFG-025", "the [test] table cannot be used",
        "What it names does not exist or cannot hold.",
        "correct the table";
    FEATURE = "HV-CFG-026", "a CPU feature cannot be had",
        "`features` names what the VM sees beyond its model, or does not see (with - in front). A name is known or not, and a feature is shown or hidden, not both; coarse time hides rdtscp.",
        "correct the list";
    PORTS = "HV-CFG-027", "the ports cannot be given",
        "Each I/O port belongs to one VM at most. Ports of the hypervisor's own devices, and of devices that reach memory by themselves or reset the machine, belong to no VM.",
        "leave the range out";
    PERSONALITY = "HV-CFG-028", "a key of another personality",
        "A VM speaks the native ABI or, with `personality = \"xen\"`, Xen's. Some keys are for one of them only.",
        "remove the key, or give the VM the other personality";
    POLICY_UNREADABLE = "HV-POL-001", "the policy file cannot be read",
        "`policy` names a file beside the system file. Without the file there is no policy, and without a policy nothing runs.",
        "check the path; it is relative to the system file";
    POLICY_NAME = "HV-POL-002", "a level or category is not declared",
        "Labels are written with the names that [levels] and [categories] list, so that a misspelling cannot make a label of its own.",
        "correct the name or declare it";
    POLICY_WORD = "HV-POL-003", "unknown role or operation",
        "Roles and operations are fixed; a word that means nothing would protect nothing.",
        "use one of the words that the message names";
    POLICY_VM = "HV-POL-004", "the policy and the system do not have the same VMs",
        "Each VM of the system has exactly one [[vm]] in its policy file, and each name in the policy is a VM of the system.",
        "add or remove a [[vm]], or correct the name";
    POLICY_LABEL_TWICE = "HV-POL-005", "a label stands in two files",
        "With a policy file, labels stand there and nowhere else: two places could say different things.",
        "remove `label` from the system file";
    POLICY_ROLES = "HV-POL-006", "one VM holds roles that exclude each other",
        "Who sets the policy must not be who judges its effect: auditor and security administrator are different VMs.",
        "give one of the roles to another VM";
    POLICY_TRUST = "HV-POL-007", "the trust in a VM is not bounded",
        "A trusted VM has a range of labels around its own and a list of operations that labels decide; at most three VMs are trusted, so that each can be reviewed.",
        "correct the range or the list";
    POLICY_PARTITION = "HV-POL-008", "the time partitions do not fit",
        "A strict profile divides time into slots: every VM has one, all VMs of a slot have one label, and the slots fill the frame.",
        "correct the slots of [partition]";
    MAC_REFUSED = "HV-MAC-001", "the policy refuses the operation",
        "Information may flow to where secrecy is not lower and integrity is not higher; writing both ways needs equal labels; roles are held or not.",
        "change the labels, or do without the operation";
    MAC_UNEXPECTED = "HV-MAC-002", "a flow that is not expected",
        "`expected-flows` lists from which VM information may reach which, directly or through others. This flow is possible and not listed.",
        "list it if it is meant, or change the labels or the trust that make it possible";
    MAC_IMPOSSIBLE = "HV-MAC-003", "an expected flow is not possible",
        "A list that says more than is true is not read carefully.",
        "remove it from the list, or change the labels so that it is possible";
    MAC_EXPECTATION = "HV-MAC-004", "the policy decides otherwise than expected",
        "An [[expect]] of the policy file says what the policy must decide.",
        "find out which of the two is wrong";
    MAC_NO_FLOW = "HV-MAC-005", "a one-way channel that the policy does not know",
        "A one-way channel between different labels is named by a [[flow]] of the policy file, so that a person has seen it.",
        "add the [[flow]], or leave the channel out";
    TARGET_MISSING = "HV-HOST-001", "the Rust target is missing",
        "Hypervisor and guests are built for x86_64-unknown-none.",
        "rustup target add x86_64-unknown-none";
    QEMU_MISSING = "HV-HOST-002", "QEMU is missing",
        "Systems are booted in qemu-system-x86_64; no virtualization hardware is needed.",
        "install qemu-system-x86 with the system's package manager, or set QEMU to the program";
    QEMU_BROKEN = "HV-HOST-003", "QEMU does not start",
        "The program was found but ended before the machine ran.",
        "look at its message above; `cargo xtask doctor` says which program it is";
    TOOL_MISSING = "HV-HOST-004", "a tool is missing",
        "The command needs a program that is not installed.",
        "run the command that `cargo xtask doctor` prints";
    PACKAGE = "HV-HOST-005", "a Debian package cannot be had",
        "Stock kernels and busybox come as packages of Debian. They are downloaded with apt-get, unpacked below target/, and not installed.",
        "run it where apt-get reaches a Debian mirror, or name files of your own (--kernel, --initrd; `path`, `initrd`)";
    MACHINE_RESET = "HV-RUN-001", "the machine reset",
        "QEMU ended by itself: a triple fault, which is a defect of the hypervisor.",
        "run again with --debug, or report it with the console's last lines";
    TIMED_OUT = "HV-RUN-002", "the time was over",
        "The run did not end within --timeout seconds.",
        "look at the last lines; give more time if the host is slow";
    UNMET = "HV-RUN-003", "an expected text was not seen",
        "The system ended (or the time was over) before every --expect text appeared.",
        "compare the texts with the lines above; a line begins with [name] of its VM";
    REFUSED = "HV-RUN-004", "the hypervisor refused the machine or the image",
        "The CPU lacks a feature that the hypervisor needs, or the image is damaged; the line above says which.",
        "choose another --cpu, or write the image again";
    VM_EXCEPTION = "HV-VM-001", "a VM died of an exception without a handler",
        "The guest kernel ran into an exception and had installed no handler for its vector.",
        "look at the instruction and source line of the report; install a handler with trap_table_set";
    VM_PAGE_FAULT = "HV-VM-002", "a VM died of a page fault without a handler",
        "The guest touched an address that is not mapped for this access and had installed no handler for vector 14.",
        "look at the address and the page walk of the report; map the page or install a handler";
    VM_STACK = "HV-VM-003", "a VM died because a handler's frame could not be written",
        "The frame of an exception, system call or event is written on the kernel stack, and the memory there is not mapped for writing (a stack overflow, mostly).",
        "give the kernel a larger stack; kernel_stack of the vCPU page must point to mapped memory";
    VM_SYSCALL = "HV-VM-004", "a VM died of a system call without an entry",
        "User mode executed syscall and the kernel had set no entry for system calls.",
        "set one with entry_points_set";
    VM_AUDIT = "HV-VM-005", "a VM died because its share of the audit log was full",
        "The policy says `on-full = \"halt-offender\"`, and the VM caused records faster than they leave.",
        "find out which of its calls are refused (`cargo xtask audit-log`), or let the policy count what is lost";
    VM_OWN_WORD = "HV-VM-006", "a VM ended itself as crashed",
        "A kernel of the Xen personality shut down with the reason \"crash\", as Linux does after a panic, or its watchdog ran out. What it was doing stands on its console.",
        "read the VM's last lines; a watchdog that ran out means that nobody in the VM set it again in time";
    VM_NO_USER_ROOT = "HV-VM-007", "a VM died on its way to user mode without tables for it",
        "A kernel of the Xen personality returned to user mode, and its vCPU has no user page tables.",
        "set them with MMUEXT_NEW_USER_BASEPTR before the first return to user mode";
    XEN_NO_ENTRY = "HV-XEN-001", "the kernel has no Xen PV entry",
        "A Xen VM starts at the 64-bit PV entry that the kernel's notes name. Kernels for PVH or HVM only need virtualization hardware, which Cloister does without.",
        "use a kernel that is built with CONFIG_XEN_PV=y, such as Debian's";
    XEN_NOT_64 = "HV-XEN-002", "the kernel is not a 64-bit one for x86-64",
        "The Xen personality serves 64-bit PV kernels; programs above them may be 32-bit ones.",
        "use the 64-bit build of the kernel";
    XEN_OTHER = "HV-XEN-003", "the kernel is for another Xen or another loader",
        "The notes must state version xen-3.0, and the loader generic (or the system linux).",
        "use a kernel for Xen 3.0 or newer";
    XEN_NOTES = "HV-XEN-004", "the kernel's Xen notes cannot be obeyed",
        "The notes are cut, or two of them contradict each other.",
        "mend the notes; xen/include/public/elfnote.h of Xen says what each means";
    XEN_PLACE = "HV-XEN-005", "the kernel cannot lie where it wants to",
        "Addresses of a Xen kernel are VIRT_BASE - PADDR_OFFSET + p_paddr. They must lie behind VIRT_BASE (a multiple of 4 MiB), not overlap, and keep out of 0xffff800000000000 to 0xffff87ffffffffff, which the hypervisor owns; entry and hypercall page lie within, the p2m list outside.",
        "correct the linker script or the notes";
    XEN_IMAGE = "HV-XEN-006", "not a kernel image",
        "A Xen VM's kernel is a bzImage of Linux or an ELF file with fixed addresses, as it is or packed with gzip.",
        "name another file, or unpack it first (scripts/extract-vmlinux of Linux)";
    LOG_EMPTY = "HV-LOG-001", "there is no audit log",
        "The file holds no audit records: it is not what a serial line said, or the run ended before the log began.",
        "run the system first; `cargo xtask run NAME` saves the line, `cargo xtask audit-log NAME` reads it";
    LOG_BROKEN = "HV-LOG-002", "the audit log's chain is broken",
        "A record is missing or was changed: its sequence or the hash of the record before does not fit.",
        "trust nothing from the named record on; look for another copy of the line";
    AUDIT_FOUND = "HV-AUD-001", "sensitive instructions found",
        "The instruction does not do in ring 3 what a kernel wants of it, and nothing in the crate's manifest says that it is meant.",
        "write what its rule says instead, or name the site with a reason in [package.metadata.cloister] (docs/audit.md)";
    AUDIT_STALE = "HV-AUD-002", "an allowance matches nothing",
        "An allowance for a site that is gone would hide the next one that comes there.",
        "remove it from [package.metadata.cloister], or correct its symbol or rule";
    AUDIT_FILE = "HV-AUD-003", "the file cannot be audited",
        "Audited are 64-bit ELF files for x86-64, and bzImage files of Linux.",
        "name a kernel or program for x86-64; other kernel images have to be unpacked first";
    AUDIT_METADATA = "HV-AUD-004", "the allowances of a crate cannot be read",
        "`audit` in [package.metadata.cloister] is a list of tables with rules, reason and perhaps symbol; a misspelt one would allow nothing or too much.",
        "correct the manifest; docs/reference/instructions.md lists the rules";
    AUDIT_TARGET = "HV-AUD-005", "there is nothing of that name to audit",
        "A target is a system of guest-kernels/systems, a package of this workspace with a program, or the path of a file.",
        "check the name; a path has a slash";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn codes_are_unique_and_their_words_are_complete() {
        for (index, code) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(index + 1).all(|other| other.id != code.id), "{} stands twice", code.id);
            assert!(code.why.ends_with('.'), "{}: {}", code.id, code.why);
            assert!(!code.title.ends_with('.'), "{}", code.id);
            assert!(!code.remedy.ends_with('.'), "{}", code.id);
        }
    }
}
