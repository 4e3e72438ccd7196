"""Open FMOW and IWildCam with the package wilds. Test images are in-distribution, or with ``--wilds-split ood`` not."""

import contextlib
import io
from pathlib import Path

from src.datasets.common import Task, file_split, missing, not_downloaded
from src.datasets.images import read_image
from src.errors import UserError
from src.templates.collections import FMOW, IWILDCAM

FMOW_NAMES = (
    "airport, airport_hangar, airport_terminal, amusement_park, aquaculture, archaeological_site, barn, "
    "border_checkpoint, burial_site, car_dealership, construction_site, crop_field, dam, debris_or_rubble, "
    "educational_institution, electric_substation, factory_or_powerplant, fire_station, flooded_road, fountain, "
    "gas_station, golf_course, ground_transportation_station, helipad, hospital, impoverished_settlement, interchange, "
    "lake_or_pond, lighthouse, military_facility, multi-unit_residential, nuclear_powerplant, office_building, "
    "oil_or_gas_facility, park, parking_lot_or_garage, place_of_worship, police_station, port, prison, race_track, "
    "railway_bridge, recreational_facility, road_bridge, runway, shipyard, shopping_mall, single-unit_residential, "
    "smokestack, solar_farm, space_facility, stadium, storage_tank, surface_mine, swimming_pool, toll_booth, tower, "
    "tunnel_opening, waste_disposal, water_treatment_facility, wind_farm, zoo").replace("_", " ").split(", ")

# English names by the column y of categories.csv, which has Latin ones: published zero-shot figures use these.
IWILDCAM_NAMES = (
    "empty; white-lipped peccary; central american agouti; lowland paca; cougar; south american tapir; collared "
    "peccary; red brocket; ocelot; ruddy quail-dove; south american coati; nine-banded armadillo; tayra; common "
    "opossum; crab-eating raccoon; jaguar; giant anteater; great tinamou; tapeti; jaguarundi; margay; brown brocket; "
    "gray four-eyed opossum; wild goat; cattle cow bull; sheep; wolf; scrub hare; olive baboon; common genet; cape "
    "bushbuck; slender mongoose; african bush elephant; gambian pouched rat; steenbok; striped hyena; impala; spotted "
    "hyena; caracal; wild horse; lion; common eland; waterbuck; common warthog; leopard; white-tailed mongoose; "
    "black-backed jackal; african buffalo; plains zebra; giraffe; hartebeest; vervet monkey; günther's dik-dik; "
    "bushpig; grant's gazelle; thomson's gazelle; common ostrich; aardvark; cheetah; white-bellied bustard; wildcat; "
    "east african oryx; buff-crested bustard; kori bustard; black-bellied bustard; great argus; leopard cat; banded "
    "palm civet; indian muntjac; wild boar; sun bear; sambar deer; malayan porcupine; asian golden cat; tiger; "
    "three-striped ground squirrel; common emerald dove; cape genet; crested porcupine; african wild dog; rock hyrax; "
    "dog; unknown bird; unknown bat; amazonian motmot; black agouti; geotrygon; white-nosed coati; northern tamandua; "
    "opossum; crested guan; hummingbird; plain parakeet; dromedary; bat-eared fox; vulturine guineafowl; zebra; "
    "aardwolf; serval; greater kudu; hippopotamus; spotted thick-knee; masked palm civet; marbled cat; dhole; asian "
    "water monitor; yellow-throated marten; banded linsang; crested partridge; salvadori's pheasant; bronze-tailed "
    "peacock-pheasant; sunda pangolin; sumatran serow; macaque; handsome spurfowl; l'hoest's monkey; black-fronted "
    "duiker; african brush-tailed porcupine; chimpanzee; blue monkey; mountain squirrel; western yellow wagtail; "
    "yellow-whiskered greenbul; little greenbul; charming thicket rat; forest giant squirrel; boehm's bush squirrel; "
    "yellow-backed duiker; common rufous-nosed rat; moustached grass warbler; peters's striped mouse; african wading "
    "rat; stella wood mouse; servaline genet; side-striped jackal; african pygmy mouse; ross's turaco; tambourine "
    "dove; tullberg's soft-furred mouse; big-eared swamp rat; egyptian goose; link rat; grey-winged francolin; olive "
    "thrush; brocket deer; gray fox; ocellated turkey; great curassow; lowland paca; baird's tapir; raccoon; "
    "white-tailed deer; grey-headed dove; central american red brocket; striped hog-nosed skunk; yucatan brown "
    "brocket; plain chachalaca; thomas's langur; sunda clouded leopard; sumatran hog badger; mouse-deer; sumatran "
    "treepie; rufous-vented niltava; silver-eared mesia; red-billed partridge; gallopheasants; javan whistling "
    "thrush; crestless fireback; crested serpent eagle; blue whistling thrush; collared mongoose; crab-eating fox; "
    "motorcycle; deer mouse; jaguarundi; bare-throated tiger heron; blue ground dove; red squirrel; unknown bird; "
    "grey-cowled wood rail; unknown dove; central american red brocket").split("; ")

FOLDERS = {"FMOW": ("fmow", "fmow_v1.1"), "IWildCam": ("iwildcam", "iwildcam_v2.0")}  # name in wilds, and folder

# Our splits -> splits of wilds, where "test" and "val" mean out of distribution.
PARTS = {"train": "train", "val": "id_val", "test": "id_test", "ood_val": "val", "ood_test": "test"}


def open_fmow(name, root):
    dataset, _ = _open(name, root)
    file = lambda index: f"images/rgb_img_{dataset.full_idxs[index]}.png"  # noqa: E731
    return Task(name, FMOW_NAMES, FMOW, _splits(dataset, file))


def open_iwildcam(name, root):
    """Open IWildCam. Class names are IWILDCAM_NAMES of the species that the dataset's own ``categories.csv``
    lists (column y)."""
    dataset, folder = _open(name, root)
    file = lambda index: f"train/{dataset._input_array[index]}"  # noqa: E731
    return Task(name, _species(name, folder / "categories.csv", root), IWILDCAM, _splits(dataset, file))


def download(name, root):
    """Download by the package wilds. It prints why a download failed, and continues with what it has."""
    key, folder = FOLDERS[name]
    printed = io.StringIO()
    wilds = _package(name)
    try:
        with contextlib.redirect_stdout(printed):
            wilds.get_dataset(dataset=key, root_dir=str(root), download=True)
    except Exception as error:  # as below
        raise not_downloaded(name, Path(root) / folder, root, _reason(printed.getvalue()) or error) from None
    if reason := _reason(printed.getvalue()):
        raise not_downloaded(name, Path(root) / folder, root, reason)


def _reason(printed):
    """Return why a download failed, as wilds printed it; "" if it reported no failure."""
    return next((line.partition(":")[2].strip() for line in printed.splitlines() if line.startswith("Exception:")), "")


def _package(name):
    try:
        import wilds
    except ImportError as error:
        raise UserError(f"{name} needs the package wilds ({error}): pip install 'clip-continual[wilds]', or in a "
                        "checkout pip install wilds") from None
    return wilds


def _open(name, root):
    key, folder = FOLDERS[name]
    place = Path(root) / folder
    if not place.is_dir():  # reported without importing the package, which takes seconds
        raise missing(name, place, root)
    wilds = _package(name)
    try:
        dataset = wilds.get_dataset(dataset=key, root_dir=str(root), download=False)
    except Exception as error:  # the package asserts, and does not check columns and names
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name}: {place} (--data-location {root}) is damaged ({reason}); see section {name} of "
                        "datasets.md") from None
    return dataset, Path(dataset._data_dir)


def _species(name, path, root):
    import pandas
    if not path.is_file():
        raise UserError(f"{name}: {path} (--data-location {root}) is missing; see section {name} of datasets.md")
    table = pandas.read_csv(path)
    if not {"y", "name"} <= set(table.columns):
        raise UserError(f"{name}: {path} lacks the columns y and name; see section {name} of datasets.md")
    known = table[table["y"] < 99999].sort_values("y")  # 99999 marks species without images
    if strangers := [str(y) for y in known["y"] if y not in range(len(IWILDCAM_NAMES))]:
        raise UserError(f"{name}: {path} lists species {strangers[0]} (column y), and iwildcam_v2.0 has 0 to "
                        f"{len(IWILDCAM_NAMES) - 1}; see section {name} of datasets.md")
    return [IWILDCAM_NAMES[y] for y in known["y"]]


def _splits(dataset, file):
    import numpy
    folder, splits = Path(dataset._data_dir), {}
    for part, theirs in PARTS.items():
        indices = numpy.flatnonzero(numpy.asarray(dataset.split_array) == dataset.split_dict[theirs]).tolist()
        files = [file(index) for index in indices]
        labels = dataset.y_array[indices].tolist()
        splits[part] = file_split(folder, files, labels, read_image)
    return splits
