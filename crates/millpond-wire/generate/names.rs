//! How Kafka's names become Rust's.

/// `TopicIdsV3` → `topic_ids_v3`, `V3AndBelowTopics` → `v3_and_below_topics`.
pub fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    let mut previous_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && previous_lower {
            out.push('_');
        }
        previous_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A field's Rust identifier: snake case, raw where it is a keyword.
pub fn identifier(name: &str) -> String {
    let name = snake_case(name);
    match name.as_str() {
        "match" | "type" | "ref" | "move" | "in" | "use" | "as" | "self" => format!("r#{name}"),
        _ => name,
    }
}

/// `topic_ids` → `TOPIC_IDS`, for constants.
pub fn constant(name: &str) -> String {
    snake_case(name).to_ascii_uppercase()
}
