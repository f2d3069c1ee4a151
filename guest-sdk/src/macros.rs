//! The macros that put a kernel's fixed symbols into its own crate, so that the SDK forces none of
//! them on a kernel that has its own.

/// Makes `main` the function of the kernel: `fn(&'static StartInfo)`, returning an exit code, `()`
/// or `!`.
///
/// Gives the entry point, the ABI note, the panic handler and (feature `alloc`) the global
/// allocator. `entry!(bare main)` gives only entry point and note; then the kernel may use
/// [`panic_handler!`](crate::panic_handler) and [`global_allocator!`](crate::global_allocator), or
/// bring its own.
///
/// On a host it gives a `main` that does nothing, so that a workspace with guests builds there.
#[macro_export]
macro_rules! entry {
    (bare $main:path) => {
        #[cfg(target_os = "none")]
        #[used]
        #[unsafe(link_section = ".note.cloister")]
        static CLOISTER_NOTE: $crate::protocol::note::AbiNote =
            $crate::protocol::note::AbiNote::CURRENT;

        /// Where the hypervisor enters the kernel, on the first stack of vCPU 0.
        #[cfg(target_os = "none")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        extern "C" fn _start() -> ! {
            extern "C" fn start() -> ! {
                // SAFETY: `_start` runs once, on vCPU 0, before anything else.
                unsafe {
                    $crate::raw::entry::start(|info| $crate::exit_code::ExitCode::code($main(info)))
                }
            }
            ::core::arch::naked_asm!("xor ebp, ebp", "call {start}", "ud2", start = sym start)
        }

        #[cfg(not(target_os = "none"))]
        fn main() {
            let _ = $main as fn(_) -> _;
        }
    };
    ($main:path) => {
        $crate::entry!(bare $main);
        $crate::panic_handler!();
        $crate::global_allocator!();
    };
}

/// Gives the kernel a panic handler that prints where and why, and ends the VM with exit code
/// [`PANIC`](crate::exit_code::PANIC).
#[macro_export]
macro_rules! panic_handler {
    () => {
        #[cfg(target_os = "none")]
        #[panic_handler]
        fn cloister_panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::console::panic(info)
        }
    };
}

/// Gives the kernel the SDK's heap as its global allocator (nothing without the feature `alloc`).
#[cfg(feature = "alloc")]
#[macro_export]
macro_rules! global_allocator {
    () => {
        #[cfg(target_os = "none")]
        #[global_allocator]
        static CLOISTER_HEAP: $crate::raw::heap::Heap = $crate::raw::heap::Heap;
    };
}

/// Gives the kernel the SDK's heap as its global allocator (nothing without the feature `alloc`).
#[cfg(not(feature = "alloc"))]
#[macro_export]
macro_rules! global_allocator {
    () => {};
}

/// Prints to the VM's console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Prints to the VM's console, with a line end.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(::core::format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}

/// Ends a functional guest with a failed verdict unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { $crate::verdict::fail(::core::format_args!($($why)+)) }
    };
}

/// Ends a functional guest with a failed verdict unless both values are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr, $($what:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if *left != *right {
                $crate::verdict::fail(::core::format_args!(
                    "{}: {:?} instead of {:?}", ::core::format_args!($($what)+), left, right
                ))
            },
        }
    };
}
