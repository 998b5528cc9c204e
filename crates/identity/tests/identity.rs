//! Credentials and secrets against a real store: what is refused, and what a thief of one half gets.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use cogward_identity::{CreateError, KekError, Operators, RevokeError, Role, SecretError, Secrets, VerifyError};
use cogward_model::{SystemClock, SystemEntropy, event::Attribution};
use cogward_store::{SecretRow, Store, StoreError};

async fn store(dir: &Path) -> Store {
    Store::open(&dir.join("state.db")).await.unwrap()
}

fn operators(store: &Store) -> Operators {
    Operators::new(store.clone(), Arc::new(SystemClock), Arc::new(SystemEntropy))
}

async fn secrets(dir: &Path, store: &Store) -> Result<Secrets, KekError> {
    Secrets::open(&dir.join("keys"), store.clone(), &SystemEntropy).await
}

#[tokio::test]
async fn a_token_is_good_until_it_is_revoked_and_is_kept_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let operators = operators(&store);
    let mut tx = store.begin().await.unwrap();
    let admin = operators.create(&mut tx, "admin", Role::Operator, Attribution::plane()).await.unwrap();
    let audit = operators.create(&mut tx, "audit", Role::Auditor, Attribution::plane()).await.unwrap();
    assert!(matches!(
        operators.create(&mut tx, "admin", Role::Operator, Attribution::plane()).await,
        Err(CreateError::Store(StoreError::Conflict { .. }))
    ));
    assert!(matches!(
        operators.create(&mut tx, "a\nb", Role::Operator, Attribution::plane()).await,
        Err(CreateError::Name)
    ));
    let _ = tx.commit(vec![admin.event.clone(), audit.event]).await.unwrap();

    let token = admin.credential.expose();
    let found = operators.verify(token).await.unwrap();
    assert!(found.may_write() && found.name == "admin" && found == admin.operator);
    assert!(!operators.verify(audit.credential.expose()).await.unwrap().may_write());
    let (head, _) = token.split_at(31);
    let (_, other_secret) = audit.credential.expose().split_at(31);
    for bad in ["", "cwo_", &token[1..], &token.to_lowercase(), &format!("{head}{other_secret}"), &format!("{token}A")]
    {
        assert!(matches!(operators.verify(bad).await, Err(VerifyError::Refused)), "{bad}");
    }

    for file in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let secret = &token.as_bytes()[31..];
        assert!(!bytes.windows(secret.len()).any(|w| w == secret), "the secret is on disk");
    }
    let mut tx = store.begin().await.unwrap();
    let event = operators.revoke(&mut tx, admin.operator.id, Attribution::operator("audit")).await.unwrap();
    assert!(matches!(
        operators.revoke(&mut tx, admin.operator.id, Attribution::plane()).await,
        Err(RevokeError::NotValid(_))
    ));
    let _ = tx.commit(vec![event]).await.unwrap();
    assert!(matches!(operators.verify(token).await, Err(VerifyError::Refused)));
}

#[tokio::test]
async fn a_replaced_token_is_good_for_its_overlap_and_a_revoked_operator_has_neither() {
    use std::time::Duration;
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let operators = operators(&store);
    let mut tx = store.begin().await.unwrap();
    let made = operators.create(&mut tx, "admin", Role::Operator, Attribution::plane()).await.unwrap();
    let id = made.operator.id;
    let _ = tx.commit(vec![made.event]).await.unwrap();
    let rotate = async |overlap: u64| {
        let mut tx = store.begin().await.unwrap();
        let rotated = operators.rotate(&mut tx, id, Duration::from_secs(overlap), Attribution::plane()).await.unwrap();
        let _ = tx.commit(vec![rotated.event.clone()]).await.unwrap();
        rotated
    };
    let good = async |token: &str| operators.verify(token).await.is_ok();
    // Dropped without a commit, it never happened.
    let mut tx = store.begin().await.unwrap();
    let lost = operators.rotate(&mut tx, id, Duration::ZERO, Attribution::plane()).await.unwrap();
    drop(tx);
    assert!(good(made.credential.expose()).await && !good(lost.credential.expose()).await);

    let second = rotate(0).await;
    assert!(second.previous_until.is_none());
    assert!(!good(made.credential.expose()).await && good(second.credential.expose()).await);
    let third = rotate(3_600).await;
    assert!(third.previous_until.is_some());
    assert!(good(second.credential.expose()).await && good(third.credential.expose()).await);
    assert!(!format!("{third:?}").contains(third.credential.expose().get(31..).unwrap()));
    // One that is replaced without an overlap takes the one that overlapped with it.
    let fourth = rotate(0).await;
    for dead in [&made.credential, &second.credential, &third.credential] {
        assert!(!good(dead.expose()).await);
    }
    let fifth = rotate(3_600).await;
    let mut tx = store.begin().await.unwrap();
    let event = operators.revoke(&mut tx, id, Attribution::plane()).await.unwrap();
    assert!(matches!(
        operators.rotate(&mut tx, id, Duration::ZERO, Attribution::plane()).await,
        Err(RevokeError::NotValid(_))
    ));
    let _ = tx.commit(vec![event]).await.unwrap();
    assert!(!good(fourth.credential.expose()).await && !good(fifth.credential.expose()).await);
}

#[tokio::test]
async fn a_secret_opens_only_under_its_name_and_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let vault = secrets(dir.path(), &store).await.unwrap();
    let (a, b) = ("provider/default/one", "provider/default/two");
    let mut tx = store.begin().await.unwrap();
    vault.put(&mut tx, a, b"key of one").await.unwrap();
    vault.put(&mut tx, b, b"key of two").await.unwrap();
    assert!(matches!(vault.put(&mut tx, a, b"").await, Err(SecretError::Length)));
    assert!(matches!(vault.put(&mut tx, a, &[0; 65_537]).await, Err(SecretError::Length)));
    assert!(matches!(vault.put(&mut tx, "No Such/Name", b"x").await, Err(SecretError::Name)));
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert_eq!(vault.get(a).await.unwrap().unwrap().as_slice(), b"key of one");
    assert!(vault.get("provider/default/none").await.unwrap().is_none());
    // The same key after a restart.
    let vault = secrets(dir.path(), &store).await.unwrap();
    assert_eq!(vault.get(b).await.unwrap().unwrap().as_slice(), b"key of two");

    let sealed = store.secret(a).await.unwrap().unwrap();
    for (name, text) in [
        (b, sealed.sealed.clone()),
        (a, sealed.sealed.replacen("v1.", "v2.", 1)),
        (a, "v1.".into()),
        (a, "v1.AAAA".into()),
        (a, flipped(&sealed.sealed)),
    ] {
        let mut tx = store.begin().await.unwrap();
        tx.secret_put(&SecretRow { name: name.into(), sealed: text, ..sealed.clone() }).await.unwrap();
        let _ = tx.commit(Vec::new()).await.unwrap();
        assert!(matches!(vault.get(name).await, Err(SecretError::Broken { .. })));
    }
    let mut tx = store.begin().await.unwrap();
    assert!(vault.delete(&mut tx, a).await.unwrap());
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert!(vault.get(a).await.unwrap().is_none());
}

fn flipped(sealed: &str) -> String {
    let mut letters: Vec<char> = sealed.chars().collect();
    letters[30] = if letters[30] == 'A' { 'B' } else { 'A' };
    letters.into_iter().collect()
}

#[tokio::test]
async fn a_key_that_others_can_read_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    secrets(dir.path(), &store).await.unwrap();
    let (keys, kek) = (dir.path().join("keys"), dir.path().join("keys/kek"));
    assert_eq!(fs::metadata(&kek).unwrap().permissions().mode() & 0o777, 0o600);
    for (path, loose, right) in [(&kek, 0o640, 0o600), (&kek, 0o604, 0o600), (&keys, 0o750, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(loose)).unwrap();
        let error = secrets(dir.path(), &store).await.unwrap_err();
        assert!(error.to_string().contains("chmod"), "{error}");
        fs::set_permissions(path, fs::Permissions::from_mode(right)).unwrap();
    }
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&kek, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &kek).unwrap();
    assert!(matches!(secrets(dir.path(), &store).await, Err(KekError::Loose { .. })));
}

#[tokio::test]
async fn a_lost_key_is_not_replaced_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path()).await;
    let vault = secrets(dir.path(), &store).await.unwrap();
    let kek = dir.path().join("keys/kek");
    fs::write(&kek, b"short").unwrap();
    assert!(matches!(secrets(dir.path(), &store).await, Err(KekError::Damaged { .. })));
    fs::remove_file(&kek).unwrap();
    let mut tx = store.begin().await.unwrap();
    vault.put(&mut tx, "provider/default/one", b"key").await.unwrap();
    let _ = tx.commit(Vec::new()).await.unwrap();
    assert!(matches!(secrets(dir.path(), &store).await, Err(KekError::Missing { .. })));
    assert!(!kek.exists());
}
