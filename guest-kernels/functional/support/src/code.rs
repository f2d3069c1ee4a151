//! Code for user mode, written in a guest's own source.

/// Where code starts and ends, as the functions of [`user_code!`](crate::user_code) return it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Bounds {
    start: *const u8,
    end: *const u8,
}

impl Bounds {
    /// The code's bytes.
    ///
    /// # Safety
    /// The bounds are those of one object that is never written.
    #[must_use]
    pub unsafe fn bytes(self) -> &'static [u8] {
        let length = self.end.addr() - self.start.addr();
        // SAFETY: the caller's duty.
        unsafe { core::slice::from_raw_parts(self.start, length) }
    }
}

/// Declares a function that returns the bytes of position-independent code.
#[macro_export]
macro_rules! user_code {
    ($(#[$doc:meta])* $name:ident: $($line:literal),* $(,)?) => {
        $(#[$doc])*
        fn $name() -> &'static [u8] {
            #[cfg(target_os = "none")]
            {
                #[unsafe(naked)]
                extern "C" fn bounds() -> $crate::code::Bounds {
                    ::core::arch::naked_asm!(
                        "lea rax, [rip + 77f]",
                        "lea rdx, [rip + 78f]",
                        "ret",
                        "77:",
                        $($line,)*
                        "78:",
                    )
                }
                // SAFETY: both labels are in the text section, which is read-only.
                unsafe { bounds().bytes() }
            }
            #[cfg(not(target_os = "none"))]
            &[]
        }
    };
}
