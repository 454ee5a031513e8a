use millpond_record::{GroupId, TopicId};
use proptest::prelude::*;

use crate::partition_folder::{FolderName, PartitionMetadata, deleted_name, stray_name};
use crate::types::is_topic_name;

#[test]
fn the_names_of_folders_tell_what_they_are() {
    let deleted = FolderName::Deleted { group: GroupId(12) };
    for (name, meaning) in [
        ("events-0", FolderName::Partition),
        ("a.12.deleted-3", FolderName::Partition),
        ("a.b-c-0.12.deleted", deleted),
        ("events-0.1.stray", FolderName::Stray),
        ("journal", FolderName::Other),
        ("lost+found", FolderName::Other),
        ("-1", FolderName::Other),
        ("events-", FolderName::Other),
        ("events-x.1.deleted", FolderName::Other),
        ("events-0.deleted", FolderName::Other),
    ] {
        assert_eq!(FolderName::parse(name), meaning, "{name}");
    }
}

#[test]
fn topic_names_are_kafkas() {
    for name in ["a", "A.b_c-9", "__cluster_metadata", &"x".repeat(249)] {
        assert!(is_topic_name(name), "{name}");
    }
    for name in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(250)] {
        assert!(!is_topic_name(name), "{name}");
    }
}

proptest! {
    #[test]
    fn a_folder_that_is_set_aside_is_never_taken_for_another(
        topic in "[a-z0-9._-]{1,249}",
        index in 0..99_999_u32,
        n in any::<u64>(),
    ) {
        let name = format!("{topic}-{index}");
        prop_assert_eq!(FolderName::parse(&name), FolderName::Partition);
        let (stray, deleted) = (stray_name(&name, n), deleted_name(&name, GroupId(n)));
        prop_assert_eq!(FolderName::parse(&stray), FolderName::Stray);
        prop_assert_eq!(FolderName::parse(&deleted), FolderName::Deleted { group: GroupId(n) });
        prop_assert!(stray.len() <= 255 && deleted.len() <= 255);
    }

    #[test]
    fn partition_metadata_comes_back_and_anything_cut_off_does_not(
        group in any::<u64>(),
        id in any::<[u8; 16]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let metadata = PartitionMetadata { group: GroupId(group), topic_id: TopicId(id) };
        let text = metadata.encode();
        prop_assert_eq!(PartitionMetadata::decode(text.as_bytes()), Some(metadata));
        prop_assert_eq!(PartitionMetadata::decode(&text.as_bytes()[..cut.index(text.len())]), None);
    }
}
