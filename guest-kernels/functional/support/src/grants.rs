//! What `grants-owner` and `grants-peer` say to each other.

/// Name of their channel.
pub const CHANNEL: &str = "control";
/// What the owner writes into each word of the frame for reading.
pub const READ_PATTERN: u64 = 0x1111_2222_3333_4444;
/// What the peer writes into the frame for writing.
pub const WRITE_PATTERN: u64 = 0x5555_6666_7777_8888;
/// Steps, each a word that one side sends when it is done: the owner granted for reading (followed
/// by the grant), for writing (followed by the grant), revoked both; the peer used what it had.
pub const READY_TO_READ: u64 = 1;
/// See [`READY_TO_READ`].
pub const READY_TO_WRITE: u64 = 2;
/// See [`READY_TO_READ`].
pub const REVOKED: u64 = 3;
/// See [`READY_TO_READ`].
pub const USED: u64 = 4;
