//! Which of many names a misspelled one may be meant for.

/// The name that `found` may be a slip for; `None` where none is near, since a name that is not would only mislead.
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    let near = names.into_iter().filter_map(|name| Some((distance(&found, &name.to_lowercase())?, name)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// How far apart two names are, in letters; `None` if they are not near each other.
fn distance(found: &str, name: &str) -> Option<usize> {
    let letters = strsim::osa_distance(found, name);
    let length = found.trim_start_matches('-').chars().count();
    // One slip in three letters: with more, any short name would be near any other.
    let slips = (length + 1) / 3;
    let is_beginning = length >= 3 && name.starts_with(found);
    match same_words(found, name) {
        true => Some(0),
        false => (letters <= slips || is_beginning).then_some(letters),
    }
}

/// Whether all of one name's words, of which there are two or more, are in the other, in whatever order.
fn same_words(found: &str, name: &str) -> bool {
    let (found, name): (Vec<&str>, Vec<&str>) = (found.split('.').collect(), name.split('.').collect());
    let (few, many) = if found.len() <= name.len() { (found, name) } else { (name, found) };
    few.len() > 1 && few.iter().all(|word| many.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &[
        "num.partitions",
        "retention.ms",
        "local.retention.ms",
        "message.max.bytes",
        "--data-dir",
        "--tls",
        "--help",
        "compression.type",
        "orders",
        "gp",
    ];

    #[test]
    fn a_slip_is_answered_with_the_name_that_is_near_and_with_none_where_none_is() {
        for (found, expected) in [
            ("num.partition", Some("num.partitions")),
            ("NUM.PARTITIONS", Some("num.partitions")),
            ("retention.m", Some("retention.ms")),
            ("retenton.ms", Some("retention.ms")),
            ("log.retention.ms", Some("retention.ms")),
            ("max.message.bytes", Some("message.max.bytes")),
            ("--data", Some("--data-dir")),
            ("oredrs", Some("orders")),
            ("foo", None),
            ("nope", None),
            ("--verbose", None),
            ("-1", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, NAMES.iter().copied()), expected, "{found}");
        }
    }
}
