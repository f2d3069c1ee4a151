//! Hypercalls, and a record of what they answered: a case shows what the record says, not what the
//! case says of itself.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::Status;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{CALLS, CallInfo, Reply};
use guest_sdk::raw::hypercall::syscall;

/// For each call of the table: a bit for each status that was answered, bit 0 for a result.
static ANSWERS: [AtomicU64; CALLS.len()] = [const { AtomicU64::new(0) }; CALLS.len()];
/// Number and status of an answer that the call does not document, or 0.
static UNDOCUMENTED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
const RESULT: u64 = 1;

/// The call with this number, and its place in the table.
pub fn info(number: u64) -> Option<(usize, &'static CallInfo)> {
    CALLS.iter().enumerate().find(|(_, info)| info.number == number)
}

/// The name of a call for messages.
pub fn name(number: u64) -> &'static str {
    info(number).map_or("no call", |(_, info)| info.name)
}

/// Forgets all answers.
pub fn clear() {
    for word in ANSWERS.iter().chain(&UNDOCUMENTED) {
        word.store(0, Ordering::SeqCst);
    }
}

/// Notes what a call left in rax.
pub fn note(number: u64, rax: u64) {
    let Some((place, info)) = info(number) else {
        return;
    };
    let bit = match Status::check_register(rax) {
        Ok(_) => RESULT,
        Err(status) => {
            let exact = status.to_register() == rax;
            if !exact || !info.errors.contains(&status) {
                UNDOCUMENTED[0].store(number, Ordering::SeqCst);
                UNDOCUMENTED[1].store(rax, Ordering::SeqCst);
            }
            1 << status.number()
        }
    };
    ANSWERS[place].fetch_or(bit, Ordering::SeqCst);
}

/// Whether a call succeeded since [`clear`].
pub fn has_succeeded(name: &str) -> bool {
    answers(name) & RESULT != 0
}

/// Whether a call was refused with a status since [`clear`].
pub fn was_refused(name: &str, status: Status) -> bool {
    answers(name) & 1 << status.number() != 0
}

fn answers(name: &str) -> u64 {
    let place = CALLS.iter().position(|info| info.name == name);
    place.map_or(0, |place| ANSWERS[place].load(Ordering::SeqCst))
}

/// An answer since [`clear`] that the table does not know: the call's number, and rax.
pub fn undocumented() -> Option<(u64, u64)> {
    let [number, rax] = UNDOCUMENTED.each_ref().map(|word| word.load(Ordering::SeqCst));
    (rax != 0).then_some((number, rax))
}

/// Makes the call of a number; rax and rdx.
///
/// A suite makes calls that no careful kernel would. It risks only itself: a call that does harm is
/// a defect of the case or of the hypervisor, and the suite ends there.
#[expect(unsafe_code, reason = "any call, with any arguments")]
pub fn raw(number: u64, arguments: [u64; 6]) -> (u64, u64) {
    // SAFETY: see above; memory that calls change is only reached by address, never by reference.
    let (rax, rdx) = unsafe { syscall(number, arguments) };
    note(number, rax);
    (rax, rdx)
}

/// Makes the call of a number.
///
/// # Errors
/// The status.
pub fn call(number: u64, arguments: [u64; 6]) -> Result<u64, Status> {
    Status::check_register(raw(number, arguments).0)
}

/// Makes a typed call.
///
/// # Errors
/// The status.
pub fn make<C: Call>(call: C) -> Result<C::Output, Status> {
    let (rax, rdx) = raw(C::NUMBER, call.encode());
    Status::check_register(rax).map(|value| C::Output::decode(value, rdx))
}
