"""Both phantoms: repeatable to the bit, true to their formats, and neither trivial nor hopeless."""

import hashlib
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from loaders.datasets.table import KINDS
from loaders.phantoms.make import make_brats, make_lidc
from loaders.phantoms.random_fields import centred_axes, smooth_field, soft_step
from loaders.phantoms.reads import outlines_of
from loaders.store.prepare import prepare
from loaders.store.read import open_store


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def lidc(tmp_path_factory):
    out = tmp_path_factory.mktemp("lidc") / "scans"
    make_lidc(out, patients=4, seed=11)
    return out


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    out = tmp_path_factory.mktemp("brats") / "scans"
    make_brats(out, patients=9, seed=11)
    return out


@pytest.mark.parametrize(("make", "made"), [(make_lidc, "lidc"), (make_brats, "brats")])
def test_a_seed_makes_the_same_bytes_for_each_patient(make, made, request, tmp_path):
    """Fewer patients are the first of more, and another seed makes others."""
    whole = digests(request.getfixturevalue(made))
    make(tmp_path / "again", patients=2, seed=11)
    again = digests(tmp_path / "again")
    assert again
    assert again.items() <= whole.items()
    make(tmp_path / "other", patients=1, seed=12)
    assert not set(digests(tmp_path / "other").values()) & set(whole.values())


@pytest.mark.parametrize(("make", "made"), [(make_lidc, "lidc"), (make_brats, "brats")])
def test_patients_that_are_made_at_once_are_the_same(make, made, request, tmp_path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        make(tmp_path / "at_once", patients=2, seed=11, each=pool.map)
    whole, at_once = digests(request.getfixturevalue(made)), digests(tmp_path / "at_once")
    assert at_once
    assert at_once.items() <= whole.items()


def test_a_patient_that_cannot_be_made_leaves_no_folder(tmp_path):
    def fails(one, numbers):
        yield one(numbers[0])
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        make_brats(tmp_path / "scans", patients=2, seed=1, each=fails)
    assert not (tmp_path / "scans").exists()


@pytest.mark.parametrize("make", [make_lidc, make_brats])
def test_a_folder_is_there_whole_or_not_at_all(make, tmp_path, monkeypatch):
    out = tmp_path / "scans"
    with pytest.raises(ValueError, match="patients is 0"):
        make(out, patients=0, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            make(out, patients=1, seed=1)
    assert not out.exists()
    make(out, patients=1, seed=2)
    with pytest.raises(FileExistsError, match="exists already"):
        make(out, patients=1, seed=2)
    # Nothing of the run that was killed is left.
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]
    make(tmp_path / "fresh", patients=1, seed=2)
    assert digests(out) == digests(tmp_path / "fresh")


def test_the_ct_files_are_what_a_scanner_writes(lidc):
    files = [pydicom.dcmread(path) for path in sorted(lidc.rglob("*.dcm"))]
    series = Counter((data.PatientID, data.SeriesInstanceUID) for data in files)
    assert Counter(patient for patient, _ in series) == {
        "LIDC-IDRI-9000": 2,
        "LIDC-IDRI-9001": 1,
        "LIDC-IDRI-9002": 1,
        "LIDC-IDRI-9003": 1,
    }
    assert set(series.values()) == {32}
    assert len({data.SOPInstanceUID for data in files}) == len(files)
    assert len({data.StudyInstanceUID for data in files}) == 5
    assert {data.PixelRepresentation for data in files} == {0, 1}
    for data in files:
        assert (data.QualityControlImage, str(data.PatientName)) == ("YES", "")
        assert all(0.8 <= mm <= 0.9 for mm in data.PixelSpacing)
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        padded = "PixelPaddingValue" in data
        assert padded == (data.PixelRepresentation == 1)
        corner = int(data.pixel_array[0, 0])
        assert (corner == data.PixelPaddingValue) if padded else (0 <= corner < 400)


def test_the_chest_has_the_densities_of_one(lidc):
    survey = KINDS["lidc"].survey(lidc, {"window": [-1024, 1000]})
    for item in survey.items:
        paths = item.paths[: -item.extra["reads"]]
        values = np.stack([pydicom.dcmread(path).pixel_array for path in paths]).astype(int) - 1024
        lung = values[(values > -960) & (values < -700)]
        assert np.median(lung) == pytest.approx(-855, abs=30)
        soft = values[(values > -60) & (values < 160)]
        assert np.median(soft) == pytest.approx(45, abs=20)


def test_the_readers_disagree(tmp_path):
    """Some nodules are everybody's, some are not, small ones and non-nodules have points."""
    from loaders.datasets.lidc.nodules import fill, unite
    from loaders.datasets.lidc.xml_reads import list_reads, read_sessions

    make_lidc(tmp_path / "scans", patients=8, seed=3)
    reads, rejected = list_reads((tmp_path / "scans").rglob("*.xml"), tmp_path)
    assert rejected == []
    readers, points, shapes = Counter(), 0, []
    for paths in reads.values():
        sessions = read_sessions(paths, "here")
        assert len(sessions) == 4
        points += sum(len(session.non_nodules) for session in sessions)
        images = {image for session in sessions for image in session.images}
        # Slices are numbered by name here: unknown ones need no place.
        order = {image: place for place, image in enumerate(sorted(images))}
        marks = [
            (reader, fill(nodule.outlines, order))
            for reader, session in enumerate(sessions)
            for nodule in session.nodules
        ]
        shapes += [region.mask.sum() for _, region in marks]
        for session in sessions:
            for nodule in session.nodules:
                assert all(one.points[0] == one.points[-1] for one in nodule.outlines)
                for one in nodule.outlines:
                    steps = np.abs(np.diff(np.array(one.points), axis=0)).max(axis=1)
                    assert steps.max() == 1
        readers.update(nodule.readers for nodule in unite(marks))
    assert points > 5
    assert readers[4] > 5
    assert min(readers[1] + readers[2], readers[3]) > 0
    assert np.std(shapes) > 0.4 * np.mean(shapes)


def test_brain_files_are_named_and_typed_as_in_brats(brats):
    cases = sorted(path.name for path in brats.iterdir())
    assert cases == sorted(
        [f"BraTS-GLI-{n:05d}-000" for n in range(9)] + [f"BraTS-GLI-{n:05d}-001" for n in (0, 6)]
    )
    for case in cases:
        names = sorted(path.name for path in (brats / case).iterdir())
        assert names == sorted(
            f"{case}-{role}.nii.gz" for role in ("t1n", "t1c", "t2w", "t2f", "seg")
        )
        images = [nibabel.load(brats / case / name) for name in names]
        assert {image.shape for image in images} == {(48, 48, 40)}
        assert nibabel.aff2axcodes(images[0].affine) == ("L", "P", "S")
        assert all(np.array_equal(image.affine, images[0].affine) for image in images)
        assert {str(image.get_data_dtype()) for image in images} == {"int16", "uint8"}


def load(brats, case):
    def array(role):
        return np.asarray(nibabel.load(brats / case / f"{case}-{role}.nii.gz").dataobj)

    return {role: array(role) for role in ("t1n", "t1c", "t2w", "t2f", "seg")}


def test_the_regions_of_a_tumour_are_nested(brats):
    for folder in brats.iterdir():
        case = load(brats, folder.name)
        labels = case["seg"]
        brain = case["t1n"] > 0
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        assert 300 < (labels > 0).sum() < 20000
        assert not (labels[~brain] > 0).any()
        assert 0.25 < brain.mean() < 0.6
        assert all(((case[role] > 0) == brain).all() for role in ("t1c", "t2w", "t2f"))
        if not (labels == 3).any():
            continue
        for inner, around in (((1,), (1, 3)), ((1, 3), (1, 2, 3))):
            part = np.isin(labels, inner)
            ring = ndimage.binary_dilation(part) & ~part & brain
            assert np.isin(labels[ring], around).mean() > 0.8


def test_every_eighth_tumour_does_not_enhance(brats):
    enhancing = {
        folder.name: bool((load(brats, folder.name)["seg"] == 3).any())
        for folder in brats.iterdir()
    }
    assert [name for name, there in enhancing.items() if not there] == ["BraTS-GLI-00007-000"]


def test_tissues_differ_as_each_weighting_shows_them(brats):
    """Medians over the case: rim brighter than the rest after contrast, oedema on FLAIR."""
    case = load(brats, "BraTS-GLI-00001-000")
    labels, brain = case["seg"], case["t1n"] > 0
    healthy = brain & ~ndimage.binary_dilation(labels > 0, iterations=2)

    def contrast(role, label):
        return np.median(case[role][labels == label]) / np.median(case[role][healthy])

    assert contrast("t1c", 3) > 1.3 > contrast("t1n", 3)
    assert contrast("t2f", 2) > 1.3
    assert contrast("t1n", 1) < 0.9
    assert contrast("t2w", 1) > 1.2


def test_a_second_scan_shows_the_same_brain_and_another_tumour(brats):
    first, second = (load(brats, f"BraTS-GLI-00000-00{visit}") for visit in (0, 1))
    np.testing.assert_array_equal(first["t1n"] > 0, second["t1n"] > 0)
    assert (first["seg"] > 0).sum() != (second["seg"] > 0).sum()
    assert np.median(first["t1n"][first["t1n"] > 0]) != np.median(second["t1n"][second["t1n"] > 0])


def test_outlines_run_round_outside_pixel_by_pixel():
    mask = np.zeros((6, 7), bool)
    mask[2, 2:5] = True
    mask[3, 3] = True
    ((outline),) = outlines_of(mask)
    ring = {(2, 1), (3, 1), (4, 1), (5, 2), (4, 3), (3, 4), (2, 3), (1, 2)}
    assert set(outline) == ring
    assert outline[0] == outline[-1]
    assert len(outline) == len(ring) + 1


def test_parts_that_touch_at_a_corner_have_an_outline_each():
    mask = np.zeros((5, 5), bool)
    mask[1, 1] = mask[2, 2] = True
    first, second = outlines_of(mask)
    assert set(first) == {(1, 0), (2, 1), (1, 2), (0, 1)}
    assert set(second) == {(2, 1), (3, 2), (2, 3), (1, 2)}
    mask[1, 2] = True
    assert len(list(outlines_of(mask))) == 1


def test_fields_have_unit_variance_at_every_point_and_vary_over_their_length():
    axes = centred_axes((12, 10, 8), (1.0, 2.0, 1.0))
    assert [axis[0] for axis in axes] == [-5.5, -9.0, -3.5]
    random = np.random.default_rng(0)
    fields = np.stack([smooth_field(random, axes, 4.0) for _ in range(3000)])
    np.testing.assert_allclose(fields.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(fields.var(axis=0), 1, atol=0.16)
    near, far = ((fields[:, 0, 0, 0] * fields[:, n, 0, 0]).mean() for n in (1, 11))
    assert near > 0.85
    assert abs(far) < 0.1


def test_a_soft_step_is_one_inside_and_half_on_the_edge():
    distance = np.array([-3.0, -0.5, 0.0, 0.25, 0.5, 9.0])
    np.testing.assert_allclose(soft_step(distance, 1.0), [1, 1, 0.5, 0.25, 0, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"task": "malignancy", "indeterminate": "benign"},
        {"task": "segment"},
        {"task": "segment", "patch": [48, 48], "slices": 3},
        {"task": "segment", "patch": [120, 120], "view": "slice", "spacing": [0, 0, 0]},
        {"task": "detect", "patch": [32, 32]},
        {"task": "detect", "patch": [120, 120], "view": "slice", "spacing": [0, 0, 0]},
    ],
    ids=lambda options: (
        f"{options['task']}-{options.get('view', len(options.get('patch', 'zyx')))}"
    ),
)
def test_every_task_has_cases_of_every_patient(lidc, tmp_path, options):
    given = {"readers": 2, **options}
    prepare(KINDS["lidc"], lidc, tmp_path / "store", options=given, key=b"k", strict=True)
    store = open_store(tmp_path / "store")
    assert len(set(store.groups)) == 4
    if store.meta.task == "classification":
        assert set(store.labels) == {0, 1}
        return
    middle = len(store.meta.channels) // 2
    brighter = []
    for image, mask in ((store.image(n), store.mask(n)) for n in range(len(store))):
        nodule = image[middle][mask == 1]
        ring = image[middle][ndimage.binary_dilation(mask, iterations=2) & (mask == 0)]
        brighter.append(nodule.mean() > ring.mean())
    # All but faint ones beside a vessel or the wall.
    assert np.mean(brighter) > 0.8


@pytest.mark.slow
def test_a_study_trains_on_the_store_of_each_task(lidc, tmp_path, monkeypatch):
    """As a user would, by the command: two trials on each of three stores."""
    from bench.cli import main

    monkeypatch.chdir(tmp_path)
    lines = ["name: tasks", "models: [plain_cnn, unet_small]", "optimizers: [adam]", "data:"]
    for name, settings in {
        "detect": ("patch=32,32", "slices=3"),
        "malignancy": ("indeterminate=benign", "readers=2"),
        "segment": ("patch=8,32,32",),
    }.items():
        given = [part for setting in (f"task={name}", *settings) for part in ("--set", setting)]
        out = f"stores/{name}"
        argv = ["medopt", "prepare", "lidc", str(lidc), "--out", out, *given, "--workers", "1"]
        monkeypatch.setattr("sys.argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        lines.append(f"  - {out}")
    lines += ["losses: [ce]", "epochs: 1", "folds: 2", "threads: 1"]
    (tmp_path / "tasks.yaml").write_text("\n".join(lines))
    monkeypatch.setattr("sys.argv", ["medopt", "run", "tasks.yaml", "--out", "runs"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    trials = pq.read_table(tmp_path / "runs" / "trials").to_pylist()
    done = Counter((trial["dataset"], trial["status"]) for trial in trials)
    assert {name: done[name, "ok"] for name, _ in done} == {
        "lidc-detect": 2,
        "lidc-malignancy": 2,
        "lidc-segment": 2,
    }


# The demo's data are learnable within seconds and leave room between optimizers.


def candidates(root, seed):
    make_lidc(root, patients=24, seed=seed)
    survey = KINDS["lidc"].survey(root, {})
    cases = [case for item in survey.items for case in KINDS["lidc"].read(item, survey.meta)]
    images = np.stack([case.image for case in cases]).astype(np.float32)
    return images, np.array([case.label for case in cases]), [case.group for case in cases]


def train(images, labels, epochs):
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    layers = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [torch.nn.Conv3d(before, after, 3, padding=1), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool3d(2)]
    head = [torch.nn.Flatten(), torch.nn.Linear(32 * 2 * 4 * 4, 64), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, *head, torch.nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        order = random.permutation(len(images))
        for start in range(0, len(order) - 7, 8):
            batch = order[start : start + 8]
            inputs = images[batch]
            for axis in (2, 3, 4):
                if random.random() < 0.5:
                    inputs = inputs.flip(axis)
            loss = torch.nn.functional.cross_entropy(network(inputs), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.mark.slow
def test_nodules_of_the_phantom_are_learnable_and_not_trivial(tmp_path):
    images, labels, groups = candidates(tmp_path / "scans", seed=2026)
    assert len(labels) > 120
    assert 0.4 < labels.mean() < 0.6
    everywhere = roc_auc_score(labels, images.mean(axis=(1, 2, 3, 4)))
    centre = roc_auc_score(labels, images[:, 0, 6:10, 13:19, 13:19].mean(axis=(1, 2, 3)))
    assert 0.3 < everywhere < 0.7
    assert centre < 0.95
    names = sorted(set(groups))
    scores = []
    for fold in range(3):
        test = np.isin(groups, names[fold::3])
        mean, deviation = images[~test].mean(), images[~test].std()
        inputs = torch.from_numpy((images - mean) / deviation)
        answers = torch.from_numpy(labels)
        network = train(inputs[~test], answers[~test], epochs=12)
        with torch.no_grad():
            found = network(inputs[test]).softmax(1)[:, 1].numpy()
        scores.append(roc_auc_score(labels[test], found))
    assert 0.75 < np.mean(scores) < 0.97
