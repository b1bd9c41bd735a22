"""The demo's data: phantoms that say so."""

from bench import demo
from loaders.store.read import open_store


def test_the_stores_of_the_demo_say_that_they_hold_phantoms(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PATIENTS", {"brats": 2})
    monkeypatch.setattr(demo, "MAKERS", {"brats": demo.MAKERS["brats"]})
    demo.make_demo(tmp_path, lambda _said: None)
    meta = open_store(tmp_path / "stores" / "brats").meta
    assert meta.kind == "brats"
    assert meta.source.startswith("phantom images")
