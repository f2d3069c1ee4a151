//! The sensitive instructions of x86-64: what each does to a guest in ring 3, and what the ABI has
//! instead. The one table behind `cargo xtask audit`, its SARIF rules and
//! `docs/reference/instructions.md`.
//!
//! Sources: Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual
//! Machine Monitor" (USENIX Security 2000) for the first eighteen and the requirements; Intel SDM
//! volume 2 and AMD APM volume 3 for what the instructions do today.

use iced_x86::{Code, Mnemonic};

/// What an instruction does to a guest that executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It runs, and shows the machine instead of the guest or silently does nothing.
    Silent,
    /// It raises an exception: the guest's handler gets it, or the guest dies.
    Fault,
    /// Its answer, or whether it runs at all, is the machine's and not the VM's.
    Policy,
    /// The ABI allows it, under the condition that the rule states.
    Noted,
}

impl Class {
    /// Every class, the gravest first.
    pub const ALL: [Class; 4] = [Class::Silent, Class::Fault, Class::Policy, Class::Noted];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Class::Silent => "silent",
            Class::Fault => "fault",
            Class::Policy => "policy",
            Class::Noted => "noted",
        }
    }

    /// What it means, as a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Class::Silent => "It runs, and shows the machine instead of the guest or silently does nothing.",
            Class::Fault => "It raises an exception: the guest's own handler gets it, or the guest dies.",
            Class::Policy => "Its answer, or whether it runs at all, is the machine's and not the VM's.",
            Class::Noted => "The ABI allows it, under the condition that the rule states.",
        }
    }

    /// Whether an audit fails that finds one.
    pub fn fails(self) -> bool {
        self != Class::Noted
    }
}

/// Which part of Robin and Irvine's third requirement an instruction touches: that the monitor is
/// told of each sensitive instruction, so that it can simulate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// It looks at or changes the mode or the state of the machine.
    Mode,
    /// It reads or changes sensitive registers or locations: clock, interrupt, descriptor tables.
    Registers,
    /// It refers to the system of protection, memory or address relocation.
    Protection,
    /// It does input or output.
    InputOutput,
}

impl Requirement {
    /// Every part, in order.
    pub const ALL: [Requirement; 4] =
        [Requirement::Mode, Requirement::Registers, Requirement::Protection, Requirement::InputOutput];

    /// Its name in the paper.
    pub fn name(self) -> &'static str {
        match self {
            Requirement::Mode => "3A",
            Requirement::Registers => "3B",
            Requirement::Protection => "3C",
            Requirement::InputOutput => "3D",
        }
    }

    /// What it asks for, as a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Requirement::Mode => "It looks at or changes the mode or the state of the machine.",
            Requirement::Registers => {
                "It reads or changes sensitive registers or locations: clock, interrupts, descriptor tables."
            }
            Requirement::Protection => "It refers to the system of protection, memory or address relocation.",
            Requirement::InputOutput => "It does input or output.",
        }
    }
}

/// One rule: instructions that are sensitive for the same reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name in reports and allowances.
    pub id: &'static str,
    /// Place among the eighteen instructions that Robin and Irvine list, if it is one of them.
    pub number: Option<u8>,
    /// What it does to a guest.
    pub class: Class,
    /// What it touches.
    pub requirement: Requirement,
    /// The instructions, as a person writes them.
    pub title: &'static str,
    /// What is wrong with them.
    pub why: &'static str,
    /// What a guest does instead.
    pub instead: &'static str,
    /// Mnemonics that are sensitive whatever their operands.
    pub mnemonics: &'static [Mnemonic],
    /// Forms of mnemonics that are harmless otherwise.
    pub codes: &'static [Code],
}

/// The rule of an id.
pub fn find(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

/// Declares the rules.
macro_rules! rules {
    ($(
        $id:literal $($number:literal)? $class:ident $requirement:ident $title:literal
            [$($mnemonic:ident)*] $(only [$($code:ident)*])?
            why $why:literal
            instead $instead:literal;
    )*) => {
        /// Every rule: the eighteen of Robin and Irvine first.
        pub const RULES: &[Rule] = &[$(Rule {
            id: $id,
            number: rules!(@number $($number)?),
            class: Class::$class,
            requirement: Requirement::$requirement,
            title: $title,
            why: $why,
            instead: $instead,
            mnemonics: &[$(Mnemonic::$mnemonic,)*],
            codes: &[$($(Code::$code,)*)?],
        },)*];
    };
    (@number $number:literal) => { Some($number) };
    (@number) => { None };
}

rules! {
    "sgdt" 1 Silent Registers "SGDT" [Sgdt]
        why "stores where the machine's descriptor table lies, or faults where the CPU has UMIP"
        instead "a guest has no descriptor table: selectors are fixed, `segment_base_set` sets bases";
    "sidt" 2 Silent Registers "SIDT" [Sidt]
        why "stores where the machine's interrupt table lies, or faults where the CPU has UMIP"
        instead "handlers are installed with `trap_table_set` and `entry_points_set`; keep what was installed";
    "sldt" 3 Silent Registers "SLDT" [Sldt]
        why "stores the machine's selector of the local descriptor table, or faults where the CPU has UMIP"
        instead "a guest has no local descriptor table; `segment_base_set` sets FS and GS";
    "smsw" 4 Silent Registers "SMSW" [Smsw]
        why "stores the machine's CR0, or faults where the CPU has UMIP"
        instead "nothing to read: paging, write protection and the FPU are always on";
    "pushf" 5 Silent Registers "PUSHF, PUSHFQ" [Pushf Pushfd Pushfq]
        why "stores the machine's flags: IF is always 1 and IOPL 0, whatever the guest has masked"
        instead "whether events are masked stands in `events_masked` of `VcpuPage`";
    "popf" 6 Silent Registers "POPF, POPFQ" [Popf Popfd Popfq]
        why "leaves IF and IOPL as they are without a word"
        instead "write `events_masked` of `VcpuPage`; after unmasking, call `event_deliver` if `events_pending` is 1";
    "lar" 7 Silent Protection "LAR" [Lar]
        why "reads access rights from the machine's descriptor table"
        instead "nothing to look up: a guest has no descriptors, the selectors are fixed";
    "lsl" 8 Silent Protection "LSL" [Lsl]
        why "reads a limit from the machine's descriptor table"
        instead "nothing to look up: segments have no limits; the number of the vCPU is `vcpu` of `VcpuPage`";
    "verr" 9 Silent Protection "VERR" [Verr]
        why "asks the machine's descriptor table, with the privilege of ring 3"
        instead "nothing to ask: a guest has no descriptors; `translate` tells how a page is mapped";
    "verw" 10 Silent Protection "VERW" [Verw]
        why "asks the machine's descriptor table, with the privilege of ring 3"
        instead "nothing to ask: a guest has no descriptors; `translate` tells how a page is mapped";
    "pop-seg" 11 Silent Protection "POP FS, POP GS" [] only [Popw_FS Popq_FS Popw_GS Popq_GS]
        why "loads a selector from the machine's table and changes the base behind the ABI's back"
        instead "`segment_base_set`; selectors are fixed";
    "push-seg" 12 Silent Protection "PUSH FS, PUSH GS" [] only [Pushw_FS Pushq_FS Pushw_GS Pushq_GS]
        why "shows the machine's selector, whose privilege is that of ring 3 in both modes of the guest"
        instead "`segment_base_get`; the mode of interrupted code stands in `info` of `TrapFrame`";
    "call-far" 13 Silent Protection "CALL far" [] only [Call_m1616 Call_m1632 Call_m1664]
        why "checks privilege against ring 3; no gate leads to the guest's kernel"
        instead "`syscall` enters the kernel from user mode, `resume` leaves it";
    "jmp-far" 14 Silent Protection "JMP far" [] only [Jmp_m1616 Jmp_m1632 Jmp_m1664]
        why "checks privilege against ring 3; no gate leads to the guest's kernel"
        instead "a near jump; `resume` changes between kernel and user mode";
    "int" 15 Fault Protection "INT n" [Int]
        why "raises general protection: the machine's gates are not the guest's (INT3 and UD2 are: they reach handlers 3 and 6)"
        instead "`syscall`, which `entry_points_set` gives an entry; INT3 for a breakpoint";
    "ret-far" 16 Silent Protection "RETF" [Retf]
        why "stays in ring 3: it cannot change between the guest's kernel and user mode"
        instead "a near return; `resume` changes the mode";
    "iret" 16 Silent Protection "IRET, IRETD, IRETQ" [Iret Iretd Iretq]
        why "stays in ring 3 and leaves IF and IOPL as they are: neither mode nor event mask is restored"
        instead "`resume` with a `TrapFrame`";
    "str" 17 Silent Protection "STR" [Str]
        why "stores the machine's task selector, or faults where the CPU has UMIP"
        instead "the number of the vCPU is `vcpu` of `VcpuPage`; `kernel_stack` is what a TSS is for";
    "mov-seg" 18 Silent Protection "MOV to or from a segment register, LFS, LGS, LSS" [Lfs Lgs Lss]
        only [Mov_rm16_Sreg Mov_r32m16_Sreg Mov_r64m16_Sreg Mov_Sreg_rm16 Mov_Sreg_r32m16 Mov_Sreg_r64m16]
        why "shows the privilege of ring 3, or loads a selector from the machine's table and loses the base"
        instead "`segment_base_set` and `segment_base_get`; selectors are fixed";

    "cpuid" Policy Mode "CPUID" [Cpuid]
        why "describes the machine, not what the VM may use, unless the CPU can make it fault"
        instead "the call `cpuid`, which answers from the VM's policy; the instruction where `CPUID` of `Features` is set";
    "rdpru" Policy Registers "RDPRU" [Rdpru]
        why "reads the performance clocks of the machine"
        instead "`run_time_ns` of `VcpuPage`";
    "timed-wait" Policy Registers "UMONITOR, UMWAIT, TPAUSE, MONITORX, MWAITX" [Umonitor Umwait Tpause Monitorx Mwaitx]
        why "keeps the machine's CPU until a deadline in its ticks, and shows when others touch a line"
        instead "`block` with a deadline, or `yield_cpu`";

    "rdpmc" Fault Registers "RDPMC" [Rdpmc]
        why "general protection: the machine's counters count every VM"
        instead "`run_time_ns` and `steal_time_ns` of `VcpuPage`";
    "load-table" Fault Registers "LGDT, LIDT, LLDT, LTR, LKGS" [Lgdt Lidt Lldt Ltr Lkgs]
        why "general protection: descriptor tables are the machine's"
        instead "`trap_table_set`, `entry_points_set`, `segment_base_set`, and `kernel_stack` of `VcpuPage`";
    "control-register" Fault Mode "MOV to or from a control register, LMSW, CLTS" [Lmsw Clts] only [Mov_r64_cr Mov_cr_r64]
        why "general protection: control registers are the machine's"
        instead "`space_switch` for CR3, `address` of `TrapFrame` for CR2, `events_masked` of `VcpuPage` for CR8; the rest is fixed";
    "debug-register" Fault Registers "MOV to or from a debug register" [] only [Mov_r64_dr Mov_dr_r64]
        why "general protection: debug registers are the machine's"
        instead "`debug_register_set` and `debug_register_get`";
    "msr" Fault Registers "RDMSR, WRMSR and their kin" [Rdmsr Wrmsr Rdmsrlist Wrmsrlist Wrmsrns Rdudbg Wrudbg]
        why "general protection: model-specific registers are the machine's"
        instead "`segment_base_set` for the bases, `entry_points_set` for the entry of `syscall`, `timer_set` for the timer";
    "tlb" Fault Protection "INVLPG, INVPCID, INVLPGB, TLBSYNC" [Invlpg Invlpga Invpcid Invlpgb Tlbsync]
        why "general protection or invalid opcode: translations are the machine's"
        instead "`unmap` and `protect` flush what has to be flushed before they return";
    "swapgs" Fault Mode "SWAPGS" [Swapgs]
        why "general protection; the hypervisor keeps a GS base for each mode and changes them with it"
        instead "nothing, or `segment_base_set` with `KernelGs` and `UserGs`";
    "sysret" Fault Mode "SYSRET, SYSEXIT, ERETS, ERETU, UIRET, RSM" [Sysret Sysretq Sysexit Sysexitq Erets Eretu Uiret Rsm]
        why "general protection or invalid opcode: only ring 0 leaves ring 0"
        instead "`resume` with a `TrapFrame`";
    "sysenter" Fault Mode "SYSENTER" [Sysenter]
        why "general protection: this entry is disabled"
        instead "`syscall`";
    "hlt" Fault Mode "HLT, MWAIT, MONITOR" [Hlt Mwait Monitor]
        why "general protection or invalid opcode: only the machine may stop the CPU"
        instead "`block`, which wakes for events; `exit` to end";
    "cli-sti" Fault Mode "CLI, STI, CLUI, STUI" [Cli Sti Clui Stui]
        why "general protection: a VM does not mask the machine's interrupts"
        instead "write `events_masked` of `VcpuPage`; after unmasking, call `event_deliver` if `events_pending` is 1";
    "stac" Fault Protection "STAC, CLAC" [Stac Clac]
        why "invalid opcode: both modes of the guest are ring 3, so SMAP does not stand between them"
        instead "nothing: leave it out";
    "io" Fault InputOutput "IN, OUT, INS, OUTS" [In Out Insb Insw Insd Outsb Outsw Outsd]
        why "general protection: ports are reached by calls only"
        instead "`io_read` and `io_write` for a port that the system file gives to the VM; `console_write`, `timer_set` and channels for the rest";
    "cache" Fault Protection "WBINVD, WBNOINVD, INVD" [Wbinvd Wbnoinvd Invd]
        why "general protection: the caches are shared by every VM"
        instead "nothing: memory is write-back and coherent";
    "xsetbv" Fault Mode "XSETBV, XSAVES, XRSTORS" [Xsetbv Xsaves Xsaves64 Xrstors Xrstors64]
        why "general protection: which state is on is set for the VM"
        instead "XSAVE and XRSTOR where `XSAVE` of `Features` says so";
    "disabled" Fault Mode "RDPKRU, WRPKRU, VMX, SVM, SGX, TDX, shadow stacks, user interrupts, key locker, PCONFIG, GETSEC"
        [Rdpkru Wrpkru Vmcall Vmclear Vmfunc Vmlaunch Vmptrld Vmptrst Vmread Vmresume Vmwrite Vmxoff Vmxon Invept
         Invvpid Vmrun Vmmcall Vmload Vmsave Vmgexit Stgi Clgi Skinit Psmash Pvalidate Rmpadjust Rmpupdate Rmpquery
         Encls Enclu Enclv Tdcall Seamcall Seamret Seamops Wrssd Wrssq Wrussd Wrussq Setssbsy Clrssbsy Rstorssp Saveprevssp
         Incsspd Incsspq Senduipi Testui Loadiwkey Encodekey128 Encodekey256 Pconfig Pbndkb Hreset Enqcmd Enqcmds
         Getsec Getsecq Llwpcb Slwpcb Lwpins Lwpval]
        why "invalid opcode or general protection: the hypervisor leaves the feature off"
        instead "nothing: the `cpuid` call does not show it either";

    "rdtsc" Noted Registers "RDTSC" [Rdtsc]
        why "reads the machine's ticks, whose frequency and start differ from machine to machine; faults in a VM with coarse time"
        instead "only with the formula of `TimePage`, or `info` with `Time`";
    "tsc-aux" Noted Registers "RDTSCP, RDPID" [Rdtscp Rdpid]
        why "tells the number of the vCPU, and is an invalid opcode where the machine has none"
        instead "only where the `cpuid` call shows it; `vcpu` of `VcpuPage` tells the number always";
    "fsgsbase" Noted Protection "RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE" [Rdfsbase Rdgsbase Wrfsbase Wrgsbase]
        why "invalid opcode where the hypervisor does not offer it"
        instead "only where `FSGSBASE` of `Features` is set; else `segment_base_set` and `segment_base_get`";
    "xgetbv" Noted Mode "XGETBV" [Xgetbv]
        why "shows which register state is on, and invalid opcode where there is none to show"
        instead "only where `XSAVE` of `Features` is set; `AVX` tells the rest";
    "icebp" Noted Registers "INT1" [Int1]
        why "raises exception 1 with no cause in debug register 6"
        instead "INT3";
    "cache-line" Noted Protection "CLFLUSH, CLFLUSHOPT, CLWB, CLZERO, CLDEMOTE" [Clflush Clflushopt Clwb Clzero Cldemote]
        why "controls a shared cache: it runs, and makes cache channels wider"
        instead "leave it out unless a device needs it: memory is coherent";
    "cache-hint" Noted Protection "PREFETCHx, MOVNTx"
        [Prefetch Prefetchw Prefetchwt1 Prefetchnta Prefetcht0 Prefetcht1 Prefetcht2 Prefetchit0 Prefetchit1 Movnti Movntq Movntdq
         Movntdqa Movntpd Movntps Movntsd Movntss Vmovntdq Vmovntdqa Vmovntpd Vmovntps]
        why "hints to a shared cache: it runs, and makes cache channels wider"
        instead "nothing to change";
    "entropy" Noted Mode "RDRAND, RDSEED" [Rdrand Rdseed]
        why "draws on a unit that all CPUs share: it runs, and contention shows"
        instead "only where the `cpuid` call shows it";
    "tsx" Noted Mode "XBEGIN, XEND, XABORT, XTEST, XSUSLDTRK, XRESLDTRK" [Xbegin Xend Xabort Xtest Xsusldtrk Xresldtrk]
        why "hides faults from the kernel and senses what shares the cache; invalid opcode where it is off"
        instead "only where the `cpuid` call shows it";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::RULES;

    #[test]
    fn ids_are_unique_and_no_instruction_has_two_rules() {
        let mut ids = HashSet::new();
        let mut forms = HashSet::new();
        for rule in RULES {
            assert!(ids.insert(rule.id), "{} stands twice", rule.id);
            for form in rule.mnemonics {
                assert!(forms.insert(format!("{form:?}")), "{form:?} has two rules");
            }
            for form in rule.codes {
                assert!(forms.insert(format!("{form:?}")), "{form:?} has two rules");
                assert!(!rule.mnemonics.contains(&form.mnemonic()), "{form:?} is named twice in {}", rule.id);
            }
        }
    }

    #[test]
    fn the_eighteen_are_all_there_in_order() {
        let mut numbers: Vec<u8> = RULES.iter().filter_map(|rule| rule.number).collect();
        numbers.dedup();
        assert_eq!(numbers, (1..=18).collect::<Vec<u8>>());
    }

    /// Everything that the protocol has a name for.
    fn names() -> HashSet<String> {
        let calls = protocol::call::CALLS.iter().map(|call| call.name.to_owned());
        let structures = protocol::shared::STRUCTURES.iter().flat_map(|structure| {
            let fields = structure.fields.iter().map(|field| field.name.to_owned());
            fields.chain([structure.name.to_owned()]).collect::<Vec<_>>()
        });
        let numbers = crate::generate::numbers().into_iter().flat_map(|set| {
            let values = set.values.into_iter().map(|(name, _)| name);
            values.chain([set.name.to_owned()]).collect::<Vec<_>>()
        });
        // What every call is made with.
        calls.chain(structures).chain(numbers).chain(["syscall".to_owned()]).collect()
    }

    #[test]
    fn replacements_name_only_what_the_protocol_has() {
        let names = names();
        for rule in RULES {
            for text in [rule.why, rule.instead] {
                let quoted = text.split('`').skip(1).step_by(2);
                for word in quoted {
                    assert!(names.contains(word), "{}: the protocol has no `{word}`", rule.id);
                }
                assert!(!text.ends_with('.') && text.matches('`').count() % 2 == 0, "{}: {text}", rule.id);
            }
        }
    }
}
