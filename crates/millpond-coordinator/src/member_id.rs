//! The ids of members that do not make their own.

use millpond_wire::Str;

use crate::request::JoinContext;

/// The most characters of a client id that go into a member id.
const MAX_CLIENT_ID: usize = 255;

/// The id of a new member: what a person recognises, and 122 random bits as a UUID of version 4.
pub(crate) fn new_member_id(instance_id: Option<&Str>, context: &JoinContext) -> Str {
    let name: String = instance_id.unwrap_or(&context.client_id).chars().take(MAX_CLIENT_ID).collect();
    let bits = context.random & !(0xf000_u128 << 64) | 0x4000_u128 << 64;
    let bits = bits & !(0xc000_u128 << 48) | 0x8000_u128 << 48;
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Str::from(format!("{name}-{a}-{b}-{c}-{d}-{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_id_is_the_clients_name_and_a_random_uuid() {
        let context = |random| JoinContext { version: 9, client_id: "app".into(), client_host: "/h".into(), random };
        assert_eq!(new_member_id(None, &context(0)), "app-00000000-0000-4000-8000-000000000000");
        let all = new_member_id(Some(&Str::from("i1")), &context(u128::MAX));
        assert_eq!(all, "i1-ffffffff-ffff-4fff-bfff-ffffffffffff");
        let long = JoinContext { client_id: "é".repeat(1000).into(), ..context(1) };
        assert_eq!(new_member_id(None, &long).chars().count(), MAX_CLIENT_ID + 37);
    }
}
