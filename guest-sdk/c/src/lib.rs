//! Start-up code for guest kernels written in C, as the static library `libcloister.a`.
//!
//! A C kernel includes `cloister.h`, defines `int cloister_main(struct start_info *)`, and is linked
//! with this library and `guest.ld`. It gets:
//!
//! * `_start` and the ABI note; when `cloister_main` returns, the VM ends with its result;
//! * `cloister_print`, which writes a zero-terminated string to the console and waits while it is
//!   full;
//! * `memcpy`, `memmove`, `memset` and `memcmp`, which every C compiler expects to find.
//!
//! Nothing else runs: no GS base, no handlers, no heap. The hypercalls are inline in the header.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "everything here is a symbol that a linker or C looks for by its name")]
mod rt;
