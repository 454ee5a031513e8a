//! The feature level as Kafka's tools see it (KIP-584): one finalized feature, `millpond.version`.

use crate::image::Image;
use crate::record::{FEATURE_LEVEL, MetadataRecord};

/// The name of the only feature.
pub const FEATURE_NAME: &str = "millpond.version";

/// A feature that is to have another level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureUpdate {
    pub feature: String,
    /// Below 1: the feature is to be removed.
    pub level: i16,
    /// A lower level is wanted.
    pub downgrade: bool,
}

/// Why a feature keeps its level. INVALID_UPDATE_VERSION
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeatureError {
    #[error("there is no feature {0:?} here")]
    Unknown(String),
    #[error("{feature} has level {only}, and no other is known to this version")]
    Fixed { feature: String, only: i16 },
    #[error(
        "{FEATURE_NAME} cannot have level {level}: it is {current}, this version knows levels up to {FEATURE_LEVEL}"
    )]
    Unsupported { level: i16, current: u32 },
    #[error("{FEATURE_NAME} cannot go back from level {current} to {level}: what is written needs level {current}")]
    Lower { level: i16, current: u32 },
    #[error("{FEATURE_NAME} has level {current}, and {level} is no lower one")]
    NotLower { level: i16, current: u32 },
}

/// The answer to a request to change levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateFeatures {
    /// One for each update, in the order of the request.
    pub results: Vec<Result<(), FeatureError>>,
    /// What changes the level, when all succeed; empty otherwise, as in Kafka from version 2 of the request on.
    pub records: Vec<MetadataRecord>,
}

/// Decides on new levels of features. `fixed`: those that are at the only level that they have, by name.
pub fn update_features(image: &Image, fixed: &[(&str, i16)], updates: &[FeatureUpdate]) -> UpdateFeatures {
    let current = image.feature_level().unwrap_or(FEATURE_LEVEL);
    let mut level = current;
    let results: Vec<_> = updates
        .iter()
        .map(|update| {
            if update.feature != FEATURE_NAME {
                let name = &update.feature;
                let only = fixed.iter().find(|(fixed, _)| fixed == name).map(|(_, level)| *level);
                return match only {
                    None => Err(FeatureError::Unknown(name.clone())),
                    Some(only) if only == update.level && !update.downgrade => Ok(()),
                    Some(only) => Err(FeatureError::Fixed { feature: name.clone(), only }),
                };
            }
            let wanted = u32::try_from(update.level).unwrap_or(0);
            match wanted.cmp(&current) {
                std::cmp::Ordering::Less => Err(FeatureError::Lower { level: update.level, current }),
                _ if update.downgrade => Err(FeatureError::NotLower { level: update.level, current }),
                _ if wanted > FEATURE_LEVEL => Err(FeatureError::Unsupported { level: update.level, current }),
                _ => {
                    level = level.max(wanted);
                    Ok(())
                }
            }
        })
        .collect();
    let changes = level != current && results.iter().all(Result::is_ok);
    let records = if changes { vec![MetadataRecord::FeatureLevel(level)] } else { Vec::new() };
    UpdateFeatures { results, records }
}
