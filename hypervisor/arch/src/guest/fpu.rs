//! Floating-point and vector state: saved and loaded whole at every vCPU switch, never lazily
//! (CVE-2018-3665).
#![expect(unsafe_code, reason = "XSAVE and XRSTOR have no safe form")]

use core::arch::asm;

/// Room for x87, SSE and AVX: 512 bytes of legacy area, 64 of header, 256 of AVX
/// (Intel SDM volume 1, 13.4). XCR0 enables nothing beyond.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct State([u8; 832]);

/// How the CPU keeps the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// FXSAVE: x87 and SSE.
    Fxsave,
    /// XSAVE with the components of XCR0.
    Xsave,
}

impl State {
    /// The architecture's initial state: x87 control word 0x37f, MXCSR 0x1f80, everything else zero,
    /// and a header that says so.
    pub const INITIAL: State = {
        let mut bytes = [0; 832];
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        State(bytes)
    };

    /// Saves the CPU's state here.
    pub fn save(&mut self, method: Method) {
        let area = self.0.as_mut_ptr();
        match method {
            // SAFETY: the area is 64-byte aligned and has room for all components of XCR0.
            Method::Xsave => unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags));
            },
            // SAFETY: the area is 16-byte aligned and longer than 512 bytes.
            Method::Fxsave => unsafe {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            },
        }
    }

    /// Loads the CPU's state from here. Pending x87 exceptions are cleared first, so that none of
    /// the former owner's pointers stay (AMD keeps them otherwise, XSA-52).
    pub fn load(&self, method: Method) {
        let area = self.0.as_ptr();
        match method {
            // SAFETY: X1 (only INITIAL and `save` write the area): its header and MXCSR are valid.
            Method::Xsave => unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags, readonly));
            },
            // SAFETY: X1 (only INITIAL and `save` write the area): its MXCSR is valid.
            Method::Fxsave => unsafe {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags, readonly));
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn the_initial_state_is_the_architectures() {
        let bytes = &State::INITIAL.0;
        assert_eq!(&bytes[0..2], &0x37f_u16.to_le_bytes());
        assert_eq!(&bytes[24..28], &0x1f80_u32.to_le_bytes());
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 4);
    }
}
