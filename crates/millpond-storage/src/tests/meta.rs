use millpond_record::BrokerId;
use millpond_runtime::sim::{NodeId, World, block_on};
use proptest::prelude::*;

use crate::meta::{MetaError, MetaProperties};

fn meta() -> MetaProperties {
    block_on(1, async { MetaProperties::new(&World::new(1).runtime_for(NodeId(1)), None, BrokerId(3)) })
}

/// Makes the checksum right again.
fn seal(lines: &str) -> String {
    format!("{lines}checksum={:08x}\n", crc32fast::hash(lines.as_bytes()))
}

#[test]
fn meta_properties_come_back_from_their_text() {
    for clean_stop in [true, false] {
        for machine_boot_id in [None, Some("0b5c9a4e-5c0e".to_owned())] {
            let meta = MetaProperties { clean_stop, machine_boot_id, ..meta() };
            assert_eq!(MetaProperties::decode(meta.encode().as_bytes()), Ok(meta));
        }
    }
}

#[test]
fn each_start_has_a_boot_id_of_its_own_and_nothing_else_changes() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NodeId(1));
        let first = MetaProperties::new(&runtime, Some("a-cluster"), BrokerId(3));
        let second = MetaProperties { clean_stop: true, ..first.clone() }.next_boot(&runtime);
        assert_ne!(first.boot_id, second.boot_id);
        assert_eq!(second, MetaProperties { boot_id: second.boot_id, ..first });
    });
}

#[test]
fn a_damaged_or_newer_file_is_refused_by_its_reason() {
    let text = meta().encode();
    assert_eq!(MetaProperties::decode(text.replace("node.id=3", "node.id=4").as_bytes()), Err(MetaError::Checksum));
    assert_eq!(MetaProperties::decode(&[0xff, 0xfe]), Err(MetaError::NotText));
    assert_eq!(MetaProperties::decode(b""), Err(MetaError::Checksum));
    let (lines, _) = text.split_at(text.find("checksum=").unwrap());
    let newer = seal(&lines.replace("millpond.format=1", "millpond.format=2"));
    assert_eq!(MetaProperties::decode(newer.as_bytes()), Err(MetaError::Newer(2)));
    for key in ["millpond.format", "cluster.id", "node.id", "directory.id", "boot.id", "clean.stop"] {
        let missing = seal(&lines.replace(&format!("{key}="), "other="));
        assert_eq!(MetaProperties::decode(missing.as_bytes()), Err(MetaError::Field(key)), "{key}");
    }
    for (key, value) in [("node.id", "x"), ("directory.id", "short"), ("clean.stop", "maybe")] {
        let line = lines.lines().find(|line| line.starts_with(key)).unwrap();
        let wrong = seal(&lines.replace(line, &format!("{key}={value}")));
        assert_eq!(MetaProperties::decode(wrong.as_bytes()), Err(MetaError::Field(key)), "{key}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}", sealed in any::<bool>()) {
        let text = if sealed { seal(&text) } else { text };
        let _ = MetaProperties::decode(text.as_bytes());
    }
}
