//! Quotas of clients (KIP-546): who has which, what may be set, and which one counts for a request.
//!
//! An entity is a user, a client id, or both; each may be a name or the default for those that have none of their own.
//! Millpond limits the bytes per second that are produced and fetched; other quotas that Kafka has are refused.

use std::collections::BTreeSet;

use crate::image::Image;
use crate::record::MetadataRecord;

/// The most entities that may have quotas: all of them are in memory on every broker.
pub const MAX_QUOTA_ENTITIES: usize = 10_000;
/// The longest name of a user or client in a quota, in bytes.
pub const MAX_QUOTA_NAME_BYTES: usize = 1024;

/// Kafka's name of the quota on produced bytes per second.
pub const PRODUCER_BYTE_RATE: &str = "producer_byte_rate";
/// Kafka's name of the quota on fetched bytes per second.
pub const CONSUMER_BYTE_RATE: &str = "consumer_byte_rate";
/// Quotas that Kafka has for users and clients, and that millpond does not enforce.
const NOT_ENFORCED: [&str; 2] = ["request_percentage", "controller_mutation_rate"];
/// Kafka's quota for addresses.
const CONNECTION_RATE: &str = "connection_creation_rate";

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";

/// A part of an entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityName {
    /// Whoever has no quota of its own.
    Default,
    Named(String),
}

/// Whom a quota is for. At least one part is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaEntity {
    pub user: Option<EntityName>,
    pub client_id: Option<EntityName>,
}

impl QuotaEntity {
    /// The parts by Kafka's names for their types; `None` is the default.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        [(CLIENT_ID, &self.client_id), (USER, &self.user)].into_iter().filter_map(|(kind, part)| match part {
            None => None,
            Some(EntityName::Default) => Some((kind, None)),
            Some(EntityName::Named(name)) => Some((kind, Some(name.as_str()))),
        })
    }
}

/// Limits in bytes per second, each 1 or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientQuota {
    pub produce: Option<u64>,
    pub fetch: Option<u64>,
}

impl ClientQuota {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.produce.is_none() && self.fetch.is_none()
    }

    /// The limits by Kafka's names.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let values = [(CONSUMER_BYTE_RATE, self.fetch), (PRODUCER_BYTE_RATE, self.produce)];
        values.into_iter().filter_map(|(key, value)| Some((key, value?)))
    }

    fn limit_mut(&mut self, key: &str) -> Option<&mut Option<u64>> {
        match key {
            PRODUCER_BYTE_RATE => Some(&mut self.produce),
            CONSUMER_BYTE_RATE => Some(&mut self.fetch),
            _ => None,
        }
    }
}

/// A change of one entity's quotas, as a client asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaAlteration {
    /// Types and names; a name of `None` is the default.
    pub entity: Vec<(String, Option<String>)>,
    /// Keys and new values; `None` removes.
    pub changes: Vec<(String, Option<f64>)>,
}

/// Why a quota is not changed. All of them are INVALID_REQUEST to a client, but for the type of an entity in a
/// description, which is UNSUPPORTED_VERSION.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuotaError {
    #[error("a quota is for a user, a client id or both: the entity is empty")]
    NoEntity,
    #[error("there is no entity type {0:?}: a quota is for a user, a client-id or both")]
    UnknownEntityType(String),
    #[error("the entity has two parts of type {0:?}")]
    EntityTypeTwice(String),
    #[error("quotas of addresses are not enforced by millpond: it limits connections by max.connections")]
    Address,
    #[error("the name of an entity is empty or longer than {MAX_QUOTA_NAME_BYTES} bytes")]
    BadName,
    #[error("the entity is named more than once in the request")]
    EntityTwice,
    #[error("quota {0} is changed more than once in the request")]
    KeyTwice(String),
    #[error("there is no quota {0:?}: {PRODUCER_BYTE_RATE} and {CONSUMER_BYTE_RATE} are known")]
    UnknownKey(String),
    #[error("quota {0} is not enforced by millpond: it limits {PRODUCER_BYTE_RATE} and {CONSUMER_BYTE_RATE}")]
    NotEnforced(String),
    #[error("quota {0} is a whole number of bytes per second, 1 or more")]
    BadValue(String),
    #[error("more than {MAX_QUOTA_ENTITIES} entities would have quotas")]
    TooMany,
    #[error("the filter matches by an unknown type {0}, or its name does not suit the type")]
    BadMatch(i8),
}

/// The answer to a request to change quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterClientQuotas {
    /// One for each entity of the request, in its order.
    pub results: Vec<Result<(), QuotaError>>,
    /// What makes the changes that succeed. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Decides which quotas change.
pub fn alter_client_quotas(image: &Image, wanted: &[QuotaAlteration]) -> AlterClientQuotas {
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    let mut count = image.client_quota_count();
    let alter = |alteration: &QuotaAlteration| {
        let entity = entity_of(&alteration.entity)?;
        if !seen.insert(entity.clone()) {
            return Err(QuotaError::EntityTwice);
        }
        let before = image.client_quota(&entity).copied().unwrap_or_default();
        let after = changed(before, &alteration.changes)?;
        if before.is_empty() && !after.is_empty() {
            if count >= MAX_QUOTA_ENTITIES {
                return Err(QuotaError::TooMany);
            }
            count += 1;
        }
        if after != before {
            records.push(MetadataRecord::ClientQuota(entity, after));
        }
        Ok(())
    };
    let results = wanted.iter().map(alter).collect();
    AlterClientQuotas { results, records }
}

fn entity_of(parts: &[(String, Option<String>)]) -> Result<QuotaEntity, QuotaError> {
    let mut entity = QuotaEntity { user: None, client_id: None };
    for (kind, name) in parts {
        let part = match kind.as_str() {
            USER => &mut entity.user,
            CLIENT_ID => &mut entity.client_id,
            IP => return Err(QuotaError::Address),
            _ => return Err(QuotaError::UnknownEntityType(kind.clone())),
        };
        if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_QUOTA_NAME_BYTES) {
            return Err(QuotaError::BadName);
        }
        if part.replace(name.clone().map_or(EntityName::Default, EntityName::Named)).is_some() {
            return Err(QuotaError::EntityTypeTwice(kind.clone()));
        }
    }
    if parts.is_empty() { Err(QuotaError::NoEntity) } else { Ok(entity) }
}

fn changed(mut quota: ClientQuota, changes: &[(String, Option<f64>)]) -> Result<ClientQuota, QuotaError> {
    let mut seen = BTreeSet::new();
    for (key, value) in changes {
        if !seen.insert(key) {
            return Err(QuotaError::KeyTwice(key.clone()));
        }
        let Some(limit) = quota.limit_mut(key) else {
            let known = NOT_ENFORCED.contains(&key.as_str()) || key == CONNECTION_RATE;
            return Err(if known { QuotaError::NotEnforced(key.clone()) } else { QuotaError::UnknownKey(key.clone()) });
        };
        *limit = match value {
            None => None,
            // Above 2^53 not every whole number has a float; what is asked for is as good as no limit.
            Some(rate) if rate.is_finite() && *rate >= 1.0 && rate.fract() == 0.0 => Some(*rate as u64),
            Some(_) => return Err(QuotaError::BadValue(key.clone())),
        };
    }
    Ok(quota)
}

/// What a description asks for of one part of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaFilter {
    pub entity_type: String,
    /// 0 this very name, 1 the default, 2 whatever is there.
    pub match_type: i8,
    pub name: Option<String>,
}

/// A part that is asked for: `None` is any.
type Wanted = Option<EntityName>;

/// The quotas whose entities have all parts of the filter, and no other ones if `strict`.
///
/// # Errors
/// What a filter has that no entity can have.
pub fn describe_client_quotas<'a>(
    image: &'a Image,
    filters: &[QuotaFilter],
    strict: bool,
) -> Result<Vec<(&'a QuotaEntity, &'a ClientQuota)>, QuotaError> {
    let (mut user, mut client_id): (Option<Wanted>, Option<Wanted>) = (None, None);
    let mut address = false;
    for filter in filters {
        let wanted = match (filter.match_type, &filter.name) {
            (0, Some(name)) => Some(EntityName::Named(name.clone())),
            (1, None) => Some(EntityName::Default),
            (2, None) => None,
            (other, _) => return Err(QuotaError::BadMatch(other)),
        };
        let twice = match filter.entity_type.as_str() {
            USER => user.replace(wanted).is_some(),
            CLIENT_ID => client_id.replace(wanted).is_some(),
            IP => std::mem::replace(&mut address, true),
            _ => return Err(QuotaError::UnknownEntityType(filter.entity_type.clone())),
        };
        if twice {
            return Err(QuotaError::EntityTypeTwice(filter.entity_type.clone()));
        }
    }
    let fits = |filter: &Option<Wanted>, part: &Option<EntityName>| match (filter, part) {
        (None, None) => true,
        (None, Some(_)) => !strict,
        (Some(_), None) => false,
        (Some(wanted), Some(part)) => wanted.as_ref().is_none_or(|wanted| wanted == part),
    };
    // No address has a quota.
    let all = image.client_quotas().filter(|_| !address);
    Ok(all.filter(|(entity, _)| fits(&user, &entity.user) && fits(&client_id, &entity.client_id)).collect())
}

/// Who shares one limit: those that a quota is for by user, by client id, or by both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaScope {
    pub user: Option<String>,
    pub client_id: Option<String>,
}

/// The limit in force for a request, of which `limit` picks one; the most specific entity that has it counts (Kafka's
/// `ClientQuotaManager`, KIP-55).
pub fn quota_for(
    image: &Image,
    user: &str,
    client_id: &str,
    limit: impl Fn(&ClientQuota) -> Option<u64>,
) -> Option<(QuotaScope, u64)> {
    // The beginning of a name that is too long for a quota is, too, and is not much to copy.
    let beginning = |name: &'_ str| name.floor_char_boundary(MAX_QUOTA_NAME_BYTES + 4);
    let (user, client_id) = (&user[..beginning(user)], &client_id[..beginning(client_id)]);
    let named = |name: &str| Some(EntityName::Named(name.to_owned()));
    let default = || Some(EntityName::Default);
    let order = [
        (named(user), named(client_id)),
        (named(user), default()),
        (named(user), None),
        (default(), named(client_id)),
        (default(), default()),
        (default(), None),
        (None, named(client_id)),
        (None, default()),
    ];
    order.into_iter().find_map(|(user_part, client_part)| {
        let scope = QuotaScope {
            user: user_part.is_some().then(|| user.to_owned()),
            client_id: client_part.is_some().then(|| client_id.to_owned()),
        };
        let entity = QuotaEntity { user: user_part, client_id: client_part };
        Some((scope, limit(image.client_quota(&entity)?)?))
    })
}
