//! `Impersonate-*` headers: acting as somebody else, if the real user may.

use crate::authn;
use crate::authz::{Attributes, Authorizer};
use crate::user::{self, UserInfo};
use api::status::{Result, Status};
use http::HeaderMap;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// What the headers ask for.
#[derive(Debug, Default, PartialEq)]
struct Wish {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wish {
    /// As Go prints the user that it stands for.
    fn printed(&self) -> String {
        let strings = |list: &[String]| {
            if list.is_empty() {
                return "[]string(nil)".to_owned();
            }
            let all: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
            format!("[]string{{{}}}", all.join(", "))
        };
        let extra: Vec<String> = self.extra.iter().map(|(k, v)| format!("{k:?}:{}", strings(v))).collect();
        let extra = match extra.is_empty() {
            true => "(nil)".to_owned(),
            false => format!("{{{}}}", extra.join(", ")),
        };
        format!(
            "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{}, Extra:map[string][]string{extra}}}",
            self.user,
            self.uid,
            strings(&self.groups)
        )
    }
}

/// The user to act as, or `None` if the request does not ask for impersonation. Every part of the
/// wish (user, each group, uid, each extra value) is authorized separately.
pub async fn impersonate(
    real: &UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>> {
    let Some(wish) = wish(headers)? else { return Ok(None) };
    authorize(real, &wish, authorizer).await?;
    Ok(Some(resulting_user(wish)))
}

/// Removes the headers, so that a proxied request does not impersonate once more further on.
pub fn strip(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers
        .keys()
        .filter(|k| matches!(k.as_str(), USER | GROUP | UID) || k.as_str().starts_with(EXTRA))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

fn wish(headers: &HeaderMap) -> Result<Option<Wish>> {
    let mut wish = Wish::default();
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("impersonate-") {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match name {
            USER => wish.user = value,
            UID => wish.uid = value,
            GROUP => wish.groups.push(value),
            _ => {
                if let Some(key) = name.strip_prefix(EXTRA) {
                    wish.extra.entry(authn::unescape(key)).or_default().push(value);
                }
            }
        }
    }
    if wish == Wish::default() {
        return Ok(None);
    }
    if wish.user.is_empty() {
        return Err(Status::bad_request(format!(
            "requested {} without impersonating a user name",
            wish.printed()
        )));
    }
    Ok(Some(wish))
}

async fn authorize(real: &UserInfo, wish: &Wish, authorizer: &dyn Authorizer) -> Result<()> {
    const GROUP_NAME: &str = "authentication.k8s.io";
    let ask = |group, resource| Attributes::resource(real, "impersonate", group, resource);
    let mut questions = Vec::new();
    questions.push(match user::split_service_account(&wish.user) {
        Some((namespace, name)) => ask("", "serviceaccounts").namespace(namespace).name(name),
        None => ask("", "users").name(&wish.user),
    });
    questions.extend(wish.groups.iter().map(|g| ask("", "groups").name(g)));
    for (key, values) in &wish.extra {
        questions.extend(
            values.iter().map(|v| ask(GROUP_NAME, "userextras").version("v1").subresource(key).name(v)),
        );
    }
    if !wish.uid.is_empty() {
        questions.push(ask(GROUP_NAME, "uids").version("v1").name(&wish.uid));
    }
    for question in questions {
        let verdict = authorizer.authorize(&question).await;
        if !verdict.allowed() {
            return Err(question.forbidden(&verdict.reason));
        }
    }
    Ok(())
}

fn resulting_user(wish: Wish) -> UserInfo {
    let mut groups = wish.groups;
    if groups.is_empty()
        && let Some((namespace, _)) = user::split_service_account(&wish.user)
    {
        groups = vec![user::SERVICE_ACCOUNTS.into(), format!("{}:{namespace}", user::SERVICE_ACCOUNTS)];
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    let missing = match wish.user.as_str() {
        user::ANONYMOUS => (!has(user::ALL_UNAUTHENTICATED)).then_some(user::ALL_UNAUTHENTICATED),
        _ => (!has(user::ALL_AUTHENTICATED) && !has(user::ALL_UNAUTHENTICATED))
            .then_some(user::ALL_AUTHENTICATED),
    };
    groups.extend(missing.map(str::to_owned));
    UserInfo { name: wish.user, uid: wish.uid, groups, extra: wish.extra }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::Verdict;

    struct Only(&'static [(&'static str, &'static str)]);

    #[async_trait::async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, a: &Attributes<'_>) -> Verdict {
            assert_eq!(a.verb, "impersonate");
            if self.0.contains(&(a.resource, a.name)) { Verdict::allow("") } else { Verdict::no_opinion("") }
        }
    }

    async fn ask(headers: &[(&'static str, &str)], allowed: Only) -> Result<Option<UserInfo>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        impersonate(&UserInfo::new("real", &[]), &map, &allowed).await
    }

    #[tokio::test]
    async fn every_part_of_the_wish_is_authorized() {
        assert_eq!(ask(&[("accept", "x")], Only(&[])).await, Ok(None));
        let wish =
            [("impersonate-user", "bob"), ("impersonate-group", "g"), ("impersonate-extra-a%2fb", "v")];
        let all = Only(&[("users", "bob"), ("groups", "g"), ("userextras", "v")]);
        let bob = ask(&wish, all).await.unwrap().unwrap();
        assert_eq!((bob.name.as_str(), bob.extra("a/b")), ("bob", Some("v")));
        assert_eq!(bob.groups, ["g", user::ALL_AUTHENTICATED]);
        for missing in [&[("users", "bob"), ("groups", "g")][..], &[("users", "bob"), ("userextras", "v")]] {
            assert_eq!(ask(&wish, Only(missing)).await.unwrap_err().code, 403);
        }
        let account =
            ask(&[("impersonate-user", "system:serviceaccount:ns:sa")], Only(&[("serviceaccounts", "sa")]));
        assert!(account.await.unwrap().unwrap().in_group("system:serviceaccounts:ns"));
        assert_eq!(ask(&[("impersonate-group", "g")], Only(&[])).await.unwrap_err().code, 400);
    }
}
