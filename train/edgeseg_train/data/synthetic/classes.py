"""ADE20K ids of the classes that the synthetic scenes contain.

The ids are zero-based (file id k -> k - 1), the same ids a checkpoint with a 150-way head predicts,
so masks from these scenes and masks from the real data set mean the same thing.
"""

from __future__ import annotations

WALL = 0
BUILDING = 1
SKY = 2
FLOOR = 3
TREE = 4
CEILING = 5
ROAD = 6
BED = 7
WINDOWPANE = 8
GRASS = 9
CABINET = 10
SIDEWALK = 11
PERSON = 12
DOOR = 14
TABLE = 15
MOUNTAIN = 16
PLANT = 17
CURTAIN = 18
CHAIR = 19
CAR = 20
PAINTING = 22
SOFA = 23
HOUSE = 25
SEA = 26
RUG = 28
FIELD = 29
LAMP = 36
SAND = 46
REFRIGERATOR = 50
PATH = 52
BOAT = 76
BUS = 80

SCENE_CLASSES: dict[int, str] = {
    WALL: "wall",
    BUILDING: "building",
    SKY: "sky",
    FLOOR: "floor",
    TREE: "tree",
    CEILING: "ceiling",
    ROAD: "road",
    BED: "bed",
    WINDOWPANE: "windowpane",
    GRASS: "grass",
    CABINET: "cabinet",
    SIDEWALK: "sidewalk",
    PERSON: "person",
    DOOR: "door",
    TABLE: "table",
    MOUNTAIN: "mountain",
    PLANT: "plant",
    CURTAIN: "curtain",
    CHAIR: "chair",
    CAR: "car",
    PAINTING: "painting",
    SOFA: "sofa",
    HOUSE: "house",
    SEA: "sea",
    RUG: "rug",
    FIELD: "field",
    LAMP: "lamp",
    SAND: "sand",
    REFRIGERATOR: "refrigerator",
    PATH: "path",
    BOAT: "boat",
    BUS: "bus",
}
