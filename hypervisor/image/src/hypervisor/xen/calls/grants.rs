//! Grants.

use super::{Arguments, Caller, Reply};

pub(super) fn grant_table_op(caller: &mut Caller<'_>, _arguments: &mut Arguments) -> Reply {
    caller.unknown(protocol::xen::call::GRANT_TABLE_OP)
}
