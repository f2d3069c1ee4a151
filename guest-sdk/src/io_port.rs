//! I/O ports that the system file gives to the VM, for kernels that drive a device.

use core::marker::PhantomData;

use protocol::Status;
use protocol::flags::IoWidth;

use crate::raw::call;

/// What a port holds: [`u8`], [`u16`] or [`u32`].
pub trait Value: Copy + Into<u32> + sealed::Sealed {
    /// Its width.
    const WIDTH: IoWidth;
    /// The value of a register, of which the low bits count.
    fn from_register(register: u64) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! values {
    ($($Type:ident $Width:ident)*) => {$(
        impl sealed::Sealed for $Type {}
        impl Value for $Type {
            const WIDTH: IoWidth = IoWidth::$Width;
            fn from_register(register: u64) -> $Type {
                register as $Type
            }
        }
    )*};
}
values! { u8 Byte u16 Word u32 Long }

/// A port of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPort<T> {
    number: u16,
    holds: PhantomData<T>,
}

impl<T: Value> IoPort<T> {
    /// The port of a number. Whether the VM has it shows when it is used.
    #[must_use]
    pub const fn new(number: u16) -> IoPort<T> {
        IoPort { number, holds: PhantomData }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Status::NotPermitted`] when the system file does not give the VM all of it.
    pub fn read(self) -> Result<T, Status> {
        call::io_read(self.number.into(), T::WIDTH).map(T::from_register)
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Status::NotPermitted`] when the system file does not give the VM all of it.
    pub fn write(self, value: T) -> Result<(), Status> {
        call::io_write(self.number.into(), T::WIDTH, value.into())
    }
}
