use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::Gfn;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::XenKernel;

use super::{LINUX, LINUX_BASE, LINUX_P2M, SMALL, vm};
use crate::vm::xen::plan::{Mapping, PAGES, Plan, TOP_TABLES};

/// The table that was measured under Xen: Debian's cloud kernel, 256 MiB, an initial RAM disk of 0x215 pages.
#[test]
fn the_measured_layout_comes_out_frame_for_frame() {
    let vm = vm(LINUX, 0x1_0000, (0x1000, 0x2e00), 0x215);
    let plan = Plan::of(&vm, LINUX);
    let at = |frame| (frame, LINUX_BASE + frame * PAGE_SIZE);
    let found = |frame: Gfn| (frame.0, plan.address(frame));
    let kernel = plan.pieces(&vm, LINUX).next().unwrap();
    assert_eq!((found(kernel.first), kernel.frames), (at(0x1000), 0x2e00));
    assert_eq!(plan.address(kernel.first), 0xffff_ffff_8100_0000);
    assert_eq!(found(plan.start_info), (0x3e00, 0xffff_ffff_83e0_0000));
    assert_eq!(found(plan.store), at(0x3e01));
    assert_eq!(found(plan.console), at(0x3e02));
    assert_eq!(found(plan.root), (0x3e03, 0xffff_ffff_83e0_3000));
    let counts = [TOP_TABLES, 2, 1].map(|level| plan.first.count(level));
    assert_eq!((counts, plan.first.table_frames()), ([1, 1, 32], 0x22));
    assert_eq!([TOP_TABLES, 2, 1].map(|level| plan.first.frame(level, 0).0), [0x3e04, 0x3e05, 0x3e06]);
    assert_eq!((plan.stack, plan.address(plan.stack) + PAGE_SIZE), (Gfn(0x3e26), 0xffff_ffff_83e2_7000));
    assert_eq!((plan.first.start, plan.first.pages), (LINUX_BASE, 0x4000));
    assert_eq!(plan.first.start + plan.first.pages * PAGE_SIZE, 0xffff_ffff_8400_0000);
    let module = plan.pieces(&vm, LINUX).last().unwrap();
    assert_eq!((module.first, module.frames), (Gfn(0x4000), 0x215));
    let second = plan.second.unwrap();
    assert_eq!((plan.p2m, second.shown, second.pages), (Gfn(0x4215), Gfn(0x4215), 0x80));
    assert_eq!((second.start, second.tables, second.table_frames()), (LINUX_P2M, Gfn(0x4295), 3));
    assert_eq!(plan.end, Gfn(0x4215 + 0x83));
}

/// The same order with the module and the list where kernels without these notes have them.
#[test]
fn what_has_no_other_place_lies_before_the_start_info() {
    let vm = vm(SMALL, 0x4000, (0x100, 0x20), 5);
    let plan = Plan::of(&vm, SMALL);
    assert_eq!((plan.module, plan.p2m, plan.start_info), (Gfn(0x120), Gfn(0x125), Gfn(0x145)));
    // Two tables of level 1 for 4 MiB.
    assert_eq!((plan.root, plan.stack, plan.first.pages), (Gfn(0x148), Gfn(0x14d), 0x400));
    assert_eq!((plan.second, plan.end), (None, Gfn(0x400)));
}

#[test]
fn the_first_mapping_grows_by_4_mib_where_the_slack_would_be_too_small() {
    // With 1024 pages: start info, store, console, the root, its tables (two of level 1) and the stack follow.
    let fixed = 3 + 1 + 4 + 1;
    let last = 1024 - 128 - fixed;
    for (frames, pages) in [(last, 1024), (last + 1, 2048), (last + 1024 - 2, 2048), (last + 1024 - 1, 3072)] {
        let plan = Plan::of(&vm(LINUX, 0x4000, (0, frames), 0), LINUX);
        assert_eq!(plan.first.pages, pages, "{frames}");
    }
}

/// What each frame of a plan is for, as the order says; fails when it is for two things.
fn uses(vm: &protocol::manifest::VmManifest, kernel: XenKernel, plan: &Plan) -> BTreeMap<u64, &'static str> {
    let mut uses = BTreeMap::new();
    let mut add = |first: Gfn, frames: u64, what| {
        for frame in first.0..first.0 + frames {
            assert_eq!(uses.insert(frame, what), None, "frame {frame:#x}: {what}");
        }
    };
    plan.pieces(vm, kernel).for_each(|piece| add(piece.first, piece.frames, "piece"));
    add(plan.p2m, vm.memory_frames.div_ceil(512), "p2m");
    [plan.start_info, plan.store, plan.console].into_iter().for_each(|page| add(page, 1, "page"));
    add(plan.root, 1, "root");
    for mapping in plan.mappings() {
        for level in 1..=TOP_TABLES {
            (0..mapping.count(level)).for_each(|position| add(mapping.frame(level, position), 1, "table"));
        }
    }
    add(plan.stack, 1, "stack");
    uses
}

/// Each page of a mapping, and each table below the root, is led to by the table that the architecture says.
fn check_places(plan: &Plan, mapping: Mapping) {
    for page in 0..mapping.pages {
        let address = mapping.start + page * PAGE_SIZE;
        let mut thing = page;
        for level in [PAGES, 1, 2, TOP_TABLES] {
            let (table, slot) = mapping.place(level, thing);
            assert_eq!(slot, (address >> (12 + 9 * level)) & 511);
            if level == TOP_TABLES {
                assert_eq!(table, None);
                break;
            }
            thing = (address >> (21 + 9 * level)) - (mapping.start >> (21 + 9 * level));
            assert_eq!(table, Some(mapping.frame(level + 1, thing)));
        }
        assert!(plan.is_shown_table(Gfn(mapping.frame(1, 0).0)) == (mapping == plan.first));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 300 }))]
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn nothing_overlaps_and_the_first_mapping_shows_all_that_it_must(
        (first, frames) in (0_u64..3000, 1_u64..3000),
        module in 0_u64..1500,
        memory in 1_u64..9000,
        (by_frame, has_address) in any::<(bool, bool)>(),
        // One that crosses slots of each level, too.
        base in prop::sample::select(vec![0, LINUX_BASE, 0x3fc0_0000, 0xffff_ff7f_ffc0_0000]),
    ) {
        let p2m_address = has_address.then_some(0x80_0000_0000 * 3 - 0x5000);
        let kernel = XenKernel { virt_base: base, p2m_address, hypercall_page: None, module_by_frame: by_frame };
        let vm = vm(kernel, memory, (first, frames), module);
        let plan = Plan::of(&vm, kernel);
        let uses = uses(&vm, kernel, &plan);
        let (last, _) = uses.last_key_value().unwrap();
        prop_assert!(*last < plan.end.0 && plan.first.pages <= plan.end.0);
        prop_assert!(plan.first.pages.is_multiple_of(1024) && plan.first.pages >= plan.stack.0 + 1 + 128);
        // One step less would not do.
        let less = Mapping { pages: plan.first.pages - 1024, ..plan.first };
        prop_assert!(less.pages == 0 || less.pages < plan.root.0 + 1 + less.table_frames() + 1 + 128);
        prop_assert_eq!(plan.module.0 >= plan.first.pages, by_frame);
        prop_assert_eq!(plan.p2m.0 >= plan.first.pages, has_address);
        plan.mappings().for_each(|mapping| check_places(&plan, mapping));
    }
}
