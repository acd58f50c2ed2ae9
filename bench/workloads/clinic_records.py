"""Records of invented patients, line by line, as long as one likes: a function of seed and language alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from bench.workloads.clinic import Language

_HEADS: Final[Mapping[Language, str]] = {
    "en": "{case} is the number of this invented record. Age {age}, ward {ward}.",
    "vi": "{case} là số của hồ sơ hư cấu này. Tuổi {age}, khoa {ward}.",
    "zh": "{case}号虚构病历。年龄{age}岁，{ward}病区。",
}
_LINES: Final[Mapping[Language, tuple[str, ...]]] = {
    "en": (
        "Day {day}, {hour}:{minute}: pressure {systolic}/{diastolic} mmHg, pulse {pulse}, oxygen {oxygen} %, "
        "temperature {temperature} degrees.",
        "Day {day}: glucose {glucose} mmol/L before breakfast, creatinine {creatinine} µmol/L, potassium {potassium}.",
        "Day {day}: slept {few} hours, ate half of the meal, drank {volume} ml, walked {metres} metres with a helper.",
        "Day {day}, {hour}:{minute}: pain {few} of 10 in the left hip, better after lying down; nothing given.",
        "Day {day}: the dressing was changed, the wound is {few} cm long, dry at its edges, without smell.",
        "Day {day}: the daughter asked about going home; stairs are to be tried first, then the bath.",
    ),
    "vi": (
        "Ngày {day}, {hour} giờ {minute}: huyết áp {systolic}/{diastolic} mmHg, mạch {pulse}, oxy {oxygen} %, "
        "nhiệt độ {temperature} độ.",
        "Ngày {day}: đường huyết trước bữa sáng {glucose} mmol/L, creatinin {creatinine} µmol/L, kali {potassium}.",
        "Ngày {day}: ngủ {few} giờ, ăn nửa suất, uống {volume} ml nước, đi được {metres} mét có người đỡ.",
        "Ngày {day}, {hour} giờ {minute}: đau hông trái {few} trên 10, nằm nghỉ thì đỡ, không dùng thêm thuốc.",
        "Ngày {day}: đã thay băng, vết mổ dài {few} cm, mép khô, không có mùi.",
        "Ngày {day}: con gái hỏi khi nào được về nhà; cần tập cầu thang trước, sau đó đến phòng tắm.",
    ),
    "zh": (
        "第{day}天{hour}时{minute}分：血压{systolic}/{diastolic}毫米汞柱，脉搏{pulse}次，血氧{oxygen}%，体温{temperature}度。",
        "第{day}天：早餐前血糖{glucose} mmol/L，肌酐{creatinine} µmol/L，血钾{potassium}。",
        "第{day}天：睡了{few}小时，饭吃了一半，喝水{volume}毫升，在搀扶下走了{metres}米。",
        "第{day}天{hour}时{minute}分：左髋疼痛{few}分，躺下后减轻，没有另外用药。",
        "第{day}天：换了敷料，伤口长{few}厘米，边缘干燥，没有异味。",
        "第{day}天：女儿问什么时候可以回家；要先练习上下楼梯，再练习洗澡。",
    ),
}
TASKS: Final[Mapping[Language, str]] = {
    "en": "Sum up this record for the physician who takes over, and name the three values that changed most.",
    "vi": "Hãy tóm tắt hồ sơ này cho bác sĩ tiếp nhận và nêu ba chỉ số thay đổi nhiều nhất.",
    "zh": "请为接班医生总结这份病历，并指出变化最大的三项数值。",
}


def lines(language: Language, seed: str) -> Iterator[str]:
    """Without end. The first begins with a number that other seeds do not have, as good as never."""
    rng = random.Random(f"{seed}/{language}")
    yield _HEADS[language].format(
        case=rng.randrange(10**8, 10**9), age=rng.randrange(19, 97), ward=rng.randrange(1, 30)
    )
    day = 1
    while True:
        for line in rng.sample(_LINES[language], len(_LINES[language])):
            yield line.format(day=day, **{name: draw(rng) for name, draw in _VALUES.items()})
        day += 1


def _between(first: int, last: int) -> Callable[[random.Random], str]:
    return lambda rng: str(rng.randint(first, last))


def _tenths(first: int, last: int) -> Callable[[random.Random], str]:
    return lambda rng: f"{rng.randint(10 * first, 10 * last) / 10:.1f}"


_VALUES: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "hour": _between(6, 23),
    "minute": lambda rng: f"{rng.randrange(60):02}",
    "systolic": _between(104, 168),
    "diastolic": _between(58, 98),
    "pulse": _between(56, 112),
    "oxygen": _between(91, 99),
    "temperature": _tenths(36, 39),
    "glucose": _tenths(4, 12),
    "creatinine": _between(52, 140),
    "potassium": _tenths(3, 5),
    "few": _between(2, 8),
    "volume": _between(600, 2200),
    "metres": _between(5, 80),
}
