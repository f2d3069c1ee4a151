use protocol::handle::{VcpuId, VmId};
use protocol::record::{CallTrace, Crash, Register, WalkStep};
use protocol::status::Status;

use super::lines;
use crate::decode::Programs;

fn crash() -> Crash<'static> {
    Crash {
        vm: VmId(0),
        vcpu: VcpuId(1),
        code: "HV-VM-002".into(),
        reason: "page fault, and no handler for exception 14".into(),
        kernel_mode: true,
        vector: Some(14),
        error_code: 2,
        fault_address: Some(0x10),
        registers: vec![
            Register { name: "rax".into(), value: 0x10 },
            Register { name: "rip".into(), value: 0xffff_ffff_8000_1234 },
        ]
        .into(),
        code_bytes: vec![0x48, 0xc7, 0x00, 0x01, 0x00, 0x00, 0x00].into(),
        page_walk: vec![WalkStep { level: 4, index: 0, flags: 0x27 }, WalkStep { level: 3, index: 0, flags: 0 }].into(),
        last_calls: vec![
            CallTrace { number: 35, arguments: [0, 0x1000], result: Status::AlreadyMapped.to_register() },
            CallTrace { number: 999, arguments: [1, 2], result: Status::UnknownCall.to_register() },
        ]
        .into(),
    }
}

#[test]
fn a_report_names_cause_instruction_walk_and_calls() {
    let programs = Programs::new("/nonexistent", &[("a".into(), vec![])]);
    let report = lines(&crash(), &programs).join("\n");
    for part in [
        "died: HV-VM-002: page fault at 0x10 (write to a page that is not mapped), and no handler for exception 14",
        "vCPU 1, kernel mode",
        "mov qword [rax],1",
        "vector  14, error code 0x2",
        "L4[0] write user accessed > L3[0] not present",
        "rax 0000000000000010",
        "map(space=0x0, address=0x1000, ...) = AlreadyMapped",
        "call 999 (0x1, 0x2) = UnknownCall",
    ] {
        assert!(report.contains(part), "no `{part}` in:\n{report}");
    }
}

#[test]
fn the_calls_of_xens_abi_have_its_names() {
    let programs = Programs::new("/nonexistent", &[]).with_xen(vec![VmId(0)]);
    let mut crash = crash();
    crash.last_calls = vec![
        CallTrace { number: 23, arguments: [1, 2], result: 0x10 },
        CallTrace { number: 40, arguments: [0, 0], result: (-38_i64).cast_unsigned() },
    ]
    .into();
    let report = lines(&crash, &programs).join("\n");
    assert!(
        report.contains("iret(0x1, 0x2, ...) = 0x10") && report.contains("call 40(0x0, 0x0, ...) = -38"),
        "{report}"
    );
}

#[test]
fn code_that_cannot_be_read_or_decoded_is_said_so() {
    let programs = Programs::new("/nonexistent", &[]);
    let mut crash = crash();
    crash.code_bytes = vec![0x06].into();
    assert!(lines(&crash, &programs).join("\n").contains("06 (no valid instruction)"));
    crash.code_bytes = Vec::new().into();
    assert!(lines(&crash, &programs).join("\n").contains("cannot be read"));
}

#[test]
fn a_lost_stack_is_not_taken_for_the_faulting_address() {
    let mut crash = crash();
    crash.code = "HV-VM-003".into();
    crash.vector = Some(6);
    crash.reason = "the kernel stack cannot hold the frame of a handler".into();
    let report = lines(&crash, &Programs::new("/nonexistent", &[])).join("\n");
    let wanted = "invalid opcode: the kernel stack cannot hold the frame of a handler (stack address 0x10)";
    assert!(report.contains(wanted), "{report}");
}
