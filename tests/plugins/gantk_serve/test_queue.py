"""The queue of a service keeps what it was given, makes each translation once, and ends."""

import io

import pydicom
import pytest
from dicom_files import dataset, head, save, series

from gantk.errors import UserError

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')

from gantk_serve.derived import uid_of
from gantk_serve.inbox import Inbox, Refused, job_number, matches
from gantk_serve.journal import Journal
from gantk_serve.rules import Rules, WhenTable, load_rules
from gantk_serve.store import MAX_ATTEMPTS, MAX_SENDS, Job, Store, now

STUDY = "1.2.826.0.1.3680043.8.498.1"
RULES = {
    "service": {"quiet": 10.0, "keep_inputs": 0.0},
    "peers": [{"title": "PACS", "host": "127.0.0.1"}],
    "rules": [{"when": {"contrast": "T1"}, "model": "t1t2", "to": "T2", "send": "PACS"}],
}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def inbox(tmp_path, store) -> Inbox:
    return Inbox(tmp_path, Rules(**RULES), store, Journal(tmp_path, quiet=True))


def files(folder, count: int = 3, **elements) -> list[bytes]:
    """A series as the contents of its files."""
    return [path.read_bytes() for path in series(folder, head(count), **elements)]


def job(number: str = "a", **columns) -> Job:
    return Job(number, STUDY, ["inputs/x.dcm"], "t1t2", **columns)


# ---- rules


def test_rules_have_defaults_and_absolute_paths(tmp_path):
    (tmp_path / "rules.toml").write_text('[dicom]\n[http]\n[service]\nfolder = "queue"\n')
    rules = load_rules(tmp_path / "rules.toml")

    assert rules.service.folder == str(tmp_path / "queue")
    assert (rules.dicom.title, rules.dicom.host, rules.http.host) == (
        "GANTK",
        "127.0.0.1",
        "127.0.0.1",
    )


def test_a_server_without_its_table_does_not_run(tmp_path):
    (tmp_path / "rules.toml").write_text("[http]\n")
    rules = load_rules(tmp_path / "rules.toml")

    assert rules.dicom is None
    assert rules.http is not None


def test_run_folders_are_relative_to_the_rules(tmp_path):
    (tmp_path / "runs/mine").mkdir(parents=True)
    text = '[http]\nmodels = ["t1t2", "runs/mine"]\n[[rules]]\nmodel = "runs/mine"\n'
    (tmp_path / "rules.toml").write_text(text)
    rules = load_rules(tmp_path / "rules.toml")

    assert rules.http.models == ["t1t2", str(tmp_path / "runs/mine")]
    assert rules.rules[0].model == str(tmp_path / "runs/mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[rules]]\nmodel = "t1t2"\nsend = "PACS"\n', "sends to 'PACS', which is no peer"),
        ("[dicom]\nprot = 3\n", "no key 'prot'"),
        ("[dicom]\nport = 99999\n", "port"),
        ('[[peers]]\ntitle = "A TITLE THAT IS TOO LONG"\nhost = "a"\n', "title"),
        (
            '[[peers]]\ntitle = "A"\nhost = "a"\n[[peers]]\ntitle = "A"\nhost = "b"\n',
            "two peers have the AE title 'A'",
        ),
        ("[dicom\n", "not TOML"),
    ],
)
def test_a_mistake_in_the_rules_is_one_error(tmp_path, text, words):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_rules(tmp_path / "rules.toml")


def test_rules_that_are_missing_are_one_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_rules(tmp_path / "rules.toml")


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({}, True),
        ({"modality": "mr"}, True),
        ({"modality": "CT"}, False),
        ({"contrast": "T1w"}, True),
        ({"contrast": "T2"}, False),
        ({"description": "TSE"}, True),
        ({"description": "flair"}, False),
        ({"sender": "PACS"}, True),
        ({"sender": "pacs"}, False),
        ({"modality": "MR", "contrast": "T2"}, False),
    ],
)
def test_a_rule_matches_what_all_its_keys_say(when, expected):
    facts = {"modality": "MR", "contrast": "t1", "description": "t1_tse", "sender": "PACS"}
    assert matches(WhenTable(**when), facts) is expected


# ---- inbox


def test_instances_are_on_the_disk_and_in_the_queue(inbox, store, tmp_path):
    contents = files(tmp_path / "series")
    for content in contents:
        inbox.take(content, "PACS")
        inbox.take(content, "PACS")  # sent twice

    found = store.instances(STUDY)
    assert len(found) == 3
    kept = {(tmp_path / each.path).read_bytes() for each in found}
    assert kept == set(contents)
    assert all((tmp_path / each.path).stat().st_mode & 0o077 == 0 for each in found)


def test_names_of_files_are_no_uids(inbox, tmp_path):
    (content,) = files(tmp_path / "series", 1, SeriesInstanceUID="1.2/../../../../x")
    new = inbox.take(content, "PACS")
    assert (tmp_path / new.path).resolve().is_relative_to(tmp_path / "inputs")


@pytest.mark.parametrize("content", [b"", b"x" * 1000, b"\0" * 128 + b"DICM" + b"\xff" * 400])
def test_what_is_no_dicom_is_refused(inbox, store, content):
    with pytest.raises(Refused):
        inbox.take(content, "PACS")
    assert store.counts()["received"] == 0


def test_deflated_instances_are_refused_without_inflating(inbox, tmp_path):
    """STOW-RS takes any transfer syntax; C-STORE negotiates."""
    (content,) = files(tmp_path / "series", 1)
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)

    with pytest.raises(Refused, match="deflated"):
        inbox.take((tmp_path / "deflated.dcm").read_bytes(), "STOW-RS")


def test_an_instance_without_a_study_is_refused(inbox, tmp_path):
    (content,) = files(tmp_path / "series", 1, StudyInstanceUID="")
    with pytest.raises(Refused, match="no UID"):
        inbox.take(content, "PACS")


def test_a_quiet_study_becomes_complete_with_one_translation(inbox, store, tmp_path):
    contents = files(tmp_path / "series")
    for content in contents:
        inbox.take(content, "PACS")
    last = max(_times(store))

    inbox.complete(STUDY, last - 1)  # an instance has come since
    assert store.jobs() == []
    inbox.complete(STUDY, last)
    (made,) = store.jobs()
    assert (made.model, made.target, made.peers, made.state) == ("t1t2", "T2", ["PACS"], "waiting")
    assert len(made.files) == 3

    for content in contents:  # the PACS sends it all again
        inbox.take(content, "PACS")
    inbox.complete(STUDY, max(_times(store)))
    assert store.jobs() == [made]


def _times(store: Store) -> list[float]:
    return [row["last"] for row in store._db.execute("SELECT last FROM studies")]


def test_a_study_waits_for_instances_that_could_not_be_kept(inbox, store, tmp_path, monkeypatch):
    one, other = files(tmp_path / "series", 2)
    inbox.take(one, "PACS")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("gantk_serve.inbox.write_file", full)
        with pytest.raises(OSError, match="No space"):
            inbox.take(other, "PACS")

    monkeypatch.setattr("gantk_serve.inbox.now", lambda: 1e12)
    inbox.complete_quiet()
    assert store.jobs() == []
    inbox.take(other, "PACS")
    monkeypatch.setattr("gantk_serve.inbox.now", lambda: 2e12)
    inbox.complete_quiet()
    assert [len(each.files) for each in store.jobs()] == [2]


def test_a_study_with_a_new_instance_is_translated_anew(inbox, store, tmp_path):
    first, *others = files(tmp_path / "series")
    for content in others:
        inbox.take(content, "PACS")
    inbox.complete(STUDY, max(_times(store)))
    inbox.take(first, "PACS")
    inbox.complete(STUDY, max(_times(store)))

    assert sorted(len(each.files) for each in store.jobs()) == [2, 3]


def test_synthetic_series_and_other_contrasts_are_left_out(inbox, store, tmp_path):
    for number, elements in enumerate(
        ({"SyntheticData": "YES"}, {"SeriesDescription": "t2_tse", "ProtocolName": "t2_tse"})
    ):
        uid = {"SeriesInstanceUID": f"1.2.{number}"}
        for content in files(tmp_path / f"{number}", **elements | uid):
            inbox.take(content, "PACS")

    inbox.complete(STUDY, max(_times(store)))
    assert store.jobs() == []
    inbox.forget(STUDY)
    assert store.instances(STUDY) == []
    assert not any((tmp_path / "inputs").iterdir())


def test_files_that_a_killed_service_did_not_note_are_swept(inbox, store, tmp_path):
    one, other = files(tmp_path / "series", 2)
    kept = inbox.take(one, "PACS")
    lost = tmp_path / inbox.take(other, "PACS").path
    with store.change() as db:
        db.execute("DELETE FROM instances WHERE path != ?", (kept.path,))

    inbox.sweep()
    assert (tmp_path / kept.path).exists()
    assert not lost.exists()


def test_the_number_of_a_job_is_a_function_of_its_inputs():
    number = job_number(["1.2", "1.3"], "t1t2", "T2", "")
    assert number == job_number(["1.2", "1.3"], "t1t2", "T2", "")
    others = [
        job_number(["1.2"], "t1t2", "T2", ""),
        job_number(["1.2", "1.3"], "other", "T2", ""),
        job_number(["1.2", "1.3"], "t1t2", "T1", ""),
        job_number(["1.2", "1.3"], "t1t2", "T2", "x"),
    ]
    assert len({number, *others}) == 5


def test_uids_are_valid_and_functions_of_a_text():
    uid = uid_of("job/weights/.")
    assert uid == uid_of("job/weights/.")
    assert uid != uid_of("job/weights/x")
    assert pydicom.uid.UID(uid).is_valid


# ---- queue


def test_a_job_is_given_to_one_worker_alone(store):
    store.add(job())
    assert store.add(job()) is False
    claimed = store.claim("one", 1.0)

    assert (claimed.job, claimed.state, claimed.attempts) == ("a", "running", 1)
    assert store.claim("two", 1.0) is None


def test_the_oldest_job_comes_first(store):
    for number, created in (("b", 2.0), ("a", 3.0), ("c", 1.0)):
        store.add(job(number, created=created))
    assert [store.claim("one", 9.0).job for _ in "abc"] == ["c", "b", "a"]


def test_a_worker_that_outlives_its_server_ends_no_job(store):
    left = "worker-0-11"
    new = "worker-0-12"
    store.add(job())
    first = store.claim(left, 1.0)
    store.resume(2.0)
    second = store.claim(new, 3.0)

    assert not store.fail(first, "its files are gone", 4.0, left)
    assert not store.finish(first, left, "results/a", 5.0)
    assert store.finish(second, new, "results/a", 6.0)


def test_files_of_the_queue_are_private(tmp_path):
    store = Store(tmp_path)
    store.add(job())

    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("queue.sqlite*")} == {0o600}


def test_a_result_of_a_worker_that_lost_its_job_is_not_taken(store):
    store.add(job())
    claimed = store.claim("one", 1.0)
    store.put_back(claimed, "ended", 2.0)
    assert store.finish(claimed, "one", "results/a", 3.0) is False

    again = store.claim("two", 1e9)
    assert store.finish(again, "two", "results/a", 3.0) is True
    assert store.job("a").state == "done"


def test_waits_grow_and_a_job_that_always_fails_ends(store):
    store.add(job())
    waits = []
    time = 0.0
    while (claimed := store.claim("one", time)) is not None:
        store.put_back(claimed, "the worker ended", time)
        waits.append(store.job("a").ready - time)
        time = max(time, store.job("a").ready)

    assert len(waits) == MAX_ATTEMPTS
    assert waits[1] == 2 * waits[0]
    assert (store.job("a").state, store.job("a").attempts) == ("failed", MAX_ATTEMPTS)
    assert "the worker ended" in store.job("a").reason


def test_restarts_of_the_service_do_not_count(store):
    store.add(job())
    for time in range(5 * MAX_ATTEMPTS):
        assert store.claim("one", time) is not None
        (again,) = store.resume(time)
        assert again.attempts == 0


def test_a_result_is_sent_until_all_peers_have_it(store):
    store.add(job(peers=["A", "B"]))
    store.finish(store.claim("one", 1.0), "one", "results/a", 2.0)
    (due,) = store.to_send("A", 2.0)
    assert [each.job for each in store.to_send("B", 2.0)] == [due.job]
    store.not_sent("a", "B", "no connection", 3.0)
    assert store.to_send("B", 3.0) == []
    assert len(store.to_send("A", 3.0)) == 1  # it does not wait for the other
    store.sent("a", "A", 4.0)

    assert store.job("a").reason == "B: no connection"
    (due,) = store.to_send("B", 3.0 + store.first_wait)
    assert due.peers == ["B"]
    store.sent("a", "B", 20.0)
    assert (store.job("a").state, store.job("a").reason) == ("sent", "")


def test_sending_ends_and_can_be_retried(store):
    store.add(job(peers=["A"]))
    store.finish(store.claim("one", 1.0), "one", "results/a", 2.0)
    tries = 0
    while store.to_send("A", 1e12):
        store.not_sent("a", "A", "no connection", 3.0)
        tries += 1

    assert tries == MAX_SENDS
    assert store.job("a").state == "failed"
    assert store.retry("a", 4.0) is True
    assert store.job("a").state == "done"  # it has a result, which is only sent
    assert len(store.to_send("A", 5.0)) == 1


def test_a_study_is_not_complete_while_it_is_being_sent(inbox, store, tmp_path, monkeypatch):
    first, *others = files(tmp_path / "series")
    link = object()
    inbox.take(first, "PACS", link)
    pause = now() + 400.0
    monkeypatch.setattr("gantk_serve.inbox.now", lambda: pause)
    inbox.complete_quiet()
    assert store.jobs() == []

    for content in others:
        inbox.take(content, "PACS", link)
    inbox.close(link)
    monkeypatch.setattr("gantk_serve.inbox.now", lambda: pause + 400.0)
    inbox.complete_quiet()
    assert [len(each.files) for each in store.jobs()] == [3]


def test_a_sender_that_never_ends_is_not_awaited(inbox, store, tmp_path, monkeypatch):
    for content in files(tmp_path / "series"):
        inbox.take(content, "PACS", "association")
    later = now() + 601.0
    monkeypatch.setattr("gantk_serve.inbox.now", lambda: later)
    inbox.complete_quiet()
    assert len(store.jobs()) == 1


def test_a_cancelled_job_stays_so(store):
    store.add(job())
    claimed = store.claim("one", 1.0)
    assert store.cancel("a", 2.0) is True
    assert store.finish(claimed, "one", "results/a", 3.0) is False
    assert (store.cancel("a", 4.0), store.retry("a", 4.0)) == (False, False)


def test_a_transaction_is_whole_or_nothing(store):
    with pytest.raises(RuntimeError), store.change() as db:
        db.execute("INSERT INTO studies VALUES ('1', 'A', 'received', 1, 1)")
        raise RuntimeError
    assert store.counts()["received"] == 0


def test_inputs_are_kept_until_all_is_delivered(store, inbox, tmp_path):
    for content in files(tmp_path / "series"):
        inbox.take(content, "PACS")
    inbox.complete(STUDY, max(_times(store)))
    assert store.finished_studies(1e12, 1e12) == []

    claimed = store.claim("one", 1e12)
    store.finish(claimed, "one", "results/a", 5.0)
    assert store.finished_studies(1e12, 1e12) == []
    store.sent(claimed.job, "PACS", 6.0)
    assert store.finished_studies(5.0, 1e12) == []
    assert store.finished_studies(6.0, 1e12) == [STUDY]


def test_inputs_of_a_failed_translation_are_kept_longer(store, inbox, tmp_path):
    for content in files(tmp_path / "series"):
        inbox.take(content, "PACS")
    inbox.complete(STUDY, max(_times(store)))
    store.fail(store.claim("one", 1e12), "bad", 100.0, "one")

    assert store.finished_studies(1e12, 99.0) == []
    assert store.finished_studies(0.0, 100.0) == [STUDY]


def test_a_queue_of_another_version_is_refused(store, tmp_path):
    with store.change() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version"):
        Store(tmp_path)


# ---- log


def test_the_log_names_nobody(tmp_path):
    journal = Journal(tmp_path, quiet=True)
    journal.say("complete", study="1.2.3", instances=3)
    text = (tmp_path / "log.jsonl").read_text()

    assert "1.2.3" not in text
    assert journal.pseudonym("1.2.3") in text
    assert Journal(tmp_path, quiet=True).pseudonym("1.2.3") == journal.pseudonym("1.2.3")
    assert (tmp_path / "pseudonyms.key").stat().st_mode & 0o077 == 0


def test_an_instance_in_memory_is_the_file_that_was_sent(inbox, tmp_path):
    path = save(dataset(), tmp_path / "one.dcm", head(1)[0])
    new = inbox.take(path.read_bytes(), "PACS")
    assert pydicom.dcmread(io.BytesIO((tmp_path / new.path).read_bytes())).PatientName == "Doe^Jane"
