//! What the user programs of the `tasks` demo link. The kernel uses only [`abi`].
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod call;
pub mod print;

/// Makes `main` the function of a program: `fn() -> u64`, its exit code.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        /// Where the kernel enters the program, on an empty stack.
        #[cfg(target_os = "none")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        extern "C" fn _start() -> ! {
            extern "C" fn start() -> ! {
                $crate::call::exit($main())
            }
            ::core::arch::naked_asm!("xor ebp, ebp", "call {start}", "ud2", start = sym start)
        }

        #[cfg(target_os = "none")]
        #[panic_handler]
        fn program_panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            $crate::println!("{info}");
            $crate::call::exit(101)
        }

        #[cfg(not(target_os = "none"))]
        fn main() {
            let _ = $main as fn() -> u64;
        }
    };
}

/// Prints, with a line end.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {
        $crate::print::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
