"""The sounds of the demo clips: machines, their defects and the noise of a factory.

n: samples of a clip. Levels and gains are in dB, frequencies in Hz, rates in events per second. Another order of
the draws from `rng` gives other sounds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 16000

CLIP_RMS, PEAK_LIMIT = 0.03, 0.85  # of full scale; a clip with higher peaks is scaled down
PULSE_TIME = np.arange(SAMPLE_RATE // 4, dtype=np.float32) / SAMPLE_RATE  # seconds; pulses are shorter
# Standard deviations of differences between clips, so that not every difference is an anomaly
SPEED_SPREAD = 0.01  # of the speed
LEVEL_SPREAD = SNR_SPREAD = TIMBRE_SPREAD = 1.0  # dB: whole clip, machine against noise, each octave of the machine
CLANKS_PER_SECOND, CLANK_GAIN = 0.3, 4.0  # transients in the factory; their peak, in units of the factory noise's RMS
FACTORY = {  # attribute value: spectrum of the factory noise
    "A": {0: -8, 100: 0, 400: -6, 1500: -16, 4000: -26, 8000: -34},
    "B": {0: -14, 100: -4, 500: 0, 1200: -10, 4000: -22, 8000: -32},
    "C": {0: -10, 100: 0, 300: -5, 1500: -12, 3000: -14, 5000: -22, 8000: -30},
}


# --- Building blocks of sounds ---
def mix(*parts):
    """Sum of (signal, level in dB) pairs, each signal first scaled to unit RMS."""
    # The mean in float64: float32 sums differ between versions of NumPy.
    rms = [np.sqrt(np.mean(signal**2, dtype=np.float64)) + 1e-12 for signal, _ in parts]
    return sum(signal * (10 ** (level / 20) / scale) for (signal, level), scale in zip(parts, rms, strict=True))


def slow_curve(rng, n, rate):
    """Smooth random curve (n,), values in -1 … 1, with about `rate` turns per second."""
    knots = rng.uniform(-1, 1, size=max(2, int(n / SAMPLE_RATE * rate) + 2))
    return np.interp(np.linspace(0, knots.size - 1, n), np.arange(knots.size), knots).astype(np.float32)


def gains(n, curve):
    """Factor (n // 2 + 1,) for each frequency of a real FFT of n samples; curve: {frequency in Hz: gain in dB}."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, n // 2 + 1)
    return np.interp(frequencies, list(curve), [10 ** (gain / 20) for gain in curve.values()]).astype(np.float32)


def noise(rng, n, curve):
    """Gaussian noise (n,) with the spectrum `curve`, {frequency in Hz: level in dB}."""
    # Drawn in float64: float32 draws call the C library, whose versions round differently.
    spectrum = rng.standard_normal(2 * (n // 2 + 1)).astype(np.float32).view(np.complex64)
    return np.fft.irfft(spectrum * gains(n, curve), n)


def tones(rng, frequency, levels):
    """Harmonics of an instantaneous frequency (n,) in Hz; levels[k] is the level in dB of harmonic k + 1."""
    cycles = np.cumsum(frequency / SAMPLE_RATE, dtype=np.float64)
    phase = (2 * np.pi * (cycles - np.floor(cycles))).astype(np.float32)
    total = np.zeros_like(phase)
    for k, level in enumerate(levels, start=1):
        total += np.float32(10 ** (level / 20)) * np.sin(np.float32(k) * phase + np.float32(rng.uniform(0, 2 * np.pi)))
    return total


def instants(rng, n, rate, jitter):
    """Sample positions of `rate` events per second, with a random start and random shifts of about `jitter` periods."""
    count = int(n / SAMPLE_RATE * rate) + 1
    periods = np.arange(count) + rng.uniform() + jitter * rng.standard_normal(count)
    positions = np.round(periods * SAMPLE_RATE / rate).astype(int)
    return positions[(positions >= 0) & (positions < n)]


def strikes(rng, n, positions, pulse):
    """The same pulse at each position before n, with a level that varies by some dB."""
    positions = positions[positions < n]
    sound = np.zeros(n + pulse.size, dtype=np.float32)
    for position, level in zip(positions, rng.normal(0, 2, positions.size), strict=True):
        sound[position : position + pulse.size] += np.float32(10 ** (level / 20)) * pulse
    return sound[:n]


def ring(frequency, decay):
    """Pulse that rings at `frequency` and decays to 1/e in `decay` seconds."""
    return np.exp(-PULSE_TIME / decay) * np.sin(2 * np.pi * frequency * PULSE_TIME)


# --- Machines: normal sound (n,) at a speed relative to nominal; `pitch` scales frequencies that depend on size ---
def toy_car(rng, n, speed, pitch):
    """Toy car: a motor whine with varying speed, and wheel noise."""
    revolutions = 210 * pitch * speed * (1 + 0.08 * slow_curve(rng, n, 1.5))
    whine = tones(rng, revolutions, [-8, 0, -5, -10, -4, -9, -4, -8, -9, -12, -12, -16])
    wheels = noise(rng, n, {0: -20, 250: 0, 900: -8, 2500 * pitch: -22, 8000: -44})
    return mix((whine, 0), (wheels * (1 + 0.4 * np.sin(2 * np.pi * np.cumsum(revolutions / 16) / SAMPLE_RATE)), -3))


def toy_train(rng, n, speed, pitch):
    """Toy train: rumble, a soft motor hum, and two clacks at each rail joint."""
    rumble = noise(rng, n, {0: -12, 60: 0, 200: -2, 500: -16, 1500: -32, 8000: -52})
    hum = tones(rng, 95 * pitch * speed * (1 + 0.02 * slow_curve(rng, n, 1)), [0, -5, -9, -6, -15])
    joints = instants(rng, n, 2.2 * speed, 0.01)
    both_axles = np.concatenate([joints, joints + int(0.11 / speed * SAMPLE_RATE)])
    clacks = strikes(rng, n, both_axles, ring(1150 * pitch, 0.012) + 0.5 * ring(2700 * pitch, 0.006))
    return mix((rumble, 0), (hum, -6), (clacks, -7))


def bearing(rng, n, speed, pitch):
    """Bearing test rig: high-frequency ringing caused by the rolling elements, and tones of the shaft."""
    pulse = ring(4200 * pitch, 0.0018) + 0.6 * ring(5900 * pitch, 0.0012)
    rolling = strikes(rng, n, instants(rng, n, 74 * speed, 0.03), pulse)
    shaft = tones(rng, np.full(n, 48 * speed), [0, -3, -10, -8, -16, -18])
    grease = noise(rng, n, {0: -24, 1500: -14, 3500: 0, 6500: -3, 8000: -16})
    return mix((rolling, 0), (shaft, 0), (grease, -5))


def fan(rng, n, speed, pitch):
    """Fan: broadband air flow and the harmonics of the blade-pass frequency."""
    blade_pass = 165 * pitch * speed * (1 + 0.006 * slow_curve(rng, n, 2))
    air = noise(rng, n, {0: -14, 150: 0, 700 * speed: -4, 2500 * speed: -8, 5000 * pitch: -13, 9999: -30})
    return mix((air, 0), (tones(rng, blade_pass, [0, -5, -8, -14, -17, -22]), -3))


def gearbox(rng, n, speed, pitch):
    """Gearbox: gear-mesh tones with sidebands from the rotation of the shaft."""
    shaft = 23 * speed * (1 + 0.004 * slow_curve(rng, n, 1))
    mesh = tones(rng, 27 * pitch * shaft, [0, -4, -9, -15, -20])
    turning = 1 + 0.5 * tones(rng, shaft, [0, -8])
    churning = noise(rng, n, {0: -10, 400: 0, 1800: -9, 4000: -20, 8000: -36})
    return mix((mesh * turning, 0), (churning, -3))


def slider(rng, n, speed, pitch):
    """Slide rail: friction noise and a motor tone that sweep up and down with each stroke, and a thud at each turn."""
    strokes = 1.1 * speed * np.arange(n) / SAMPLE_RATE + rng.uniform()
    velocity = np.abs(np.sin(np.pi * strokes))
    slow = noise(rng, n, {0: -20, 300: -6, 900: 0, 2200: -14, 8000: -36})
    fast = noise(rng, n, {0: -30, 900: -14, 2600 * pitch: 0, 5000: -8, 8000: -24})
    friction = slow * velocity * (1 - velocity) + fast * velocity**2
    motor = tones(rng, 620 * pitch * speed * velocity, [0, -7, -12]) * velocity
    turns = np.flatnonzero(np.diff(np.floor(strokes)))
    return mix((friction, 0), (motor, -8), (strikes(rng, n, turns, ring(240, 0.03) + 0.4 * ring(1700, 0.01)), -8))


def valve(rng, n, speed, pitch):
    """Solenoid valve: a click and a burst of air each time it opens, a softer click when it closes."""
    opens = instants(rng, n, 2.4 * speed, 0.02)
    click = ring(2100 * pitch, 0.004) + 0.7 * ring(3600 * pitch, 0.003)
    hiss = noise(rng, PULSE_TIME.size, {0: -30, 1500: -10, 4500 * pitch: 0, 8000: -5})
    air = strikes(rng, n, opens, np.exp(-PULSE_TIME / 0.05) * hiss)
    clicks = strikes(rng, n, opens, click) + 0.5 * strikes(rng, n, opens + int(0.16 * SAMPLE_RATE), click)
    return mix((air, 0), (clicks, 0), (tones(rng, np.full(n, 100.0), [0, -6, -8, -14]), -10))


# --- Defects: the sound (n,) that an anomaly adds ---
def knocks(rng, n, speed):
    """Something hits the housing at each turn."""
    return strikes(rng, n, instants(rng, n, rng.uniform(5, 14) * speed, 0.03), ring(rng.uniform(900, 3200), 0.006))


def extra_tones(rng, n, speed):
    """Extra tones at a wavering frequency, different from the machine's tones."""
    frequency = rng.uniform(500, 2400) * speed * (1 + 0.01 * slow_curve(rng, n, 3))
    return tones(rng, frequency, [0, -6, -12]) * (1 + 0.5 * slow_curve(rng, n, 4))


def rattle(rng, n, speed):
    """A loose part rattles: quick irregular ticks, in spells."""
    ticks = strikes(rng, n, instants(rng, n, rng.uniform(25, 45) * speed, 0.3), ring(rng.uniform(2500, 5500), 0.002))
    return ticks * np.clip(0.6 + slow_curve(rng, n, 3), 0, None)


def friction(rng, n, speed):
    """Something drags: a few long bursts of noise around a random frequency."""
    centre = rng.uniform(1500, 5000)
    dragging = noise(rng, n, {0: -40, 0.6 * centre: -15, centre: 0, 1.5 * centre: -15, 9000: -40})
    return dragging * np.clip(0.2 + slow_curve(rng, n, 4 * speed), 0, None)


# --- Machine types ---
@dataclass(frozen=True)
class DemoMachine:
    """A machine type: its sound, how loud its anomalies are, and the operating conditions of its two domains."""

    sound: Callable  # (rng, n, speed, pitch) -> normal sound
    defects: tuple[Callable, ...]  # (rng, n, speed) -> sound; an anomalous clip has one of these
    severity: tuple[float, float]  # lowest and highest level of a defect against the machine sound, dB
    snr: tuple[float, float]  # level of the machine sound against the noise in the source and target domain, dB
    attribute: str  # name of the operating condition in file names
    source: dict[str, float]  # attribute value: speed relative to nominal
    target: dict[str, float]
    pitch: float = 1.0


class DemoClip(NamedTuple):
    """The properties of a clip, without its samples."""

    split: str  # train or test
    domain: str  # source or target
    label: str  # normal or anomaly
    number: int  # index among the clips of the same split, domain and label
    condition: str  # value of the machine type's attribute, which sets the speed
    noise: str  # A, B or C: value of the other attribute, a key of FACTORY


# fmt: off
DEV_MACHINES = {
    "ToyCar": DemoMachine(toy_car, (knocks, extra_tones, rattle), (-33, -11), (6, 5),
        "spd", {"28V": 0.92, "31V": 1.0, "34V": 1.08}, {"25V": 0.88, "37V": 1.12}),
    "ToyTrain": DemoMachine(toy_train, (knocks, rattle, friction), (-33, -11), (6, 3),
        "spd", {"6": 0.9, "7": 1.0, "8": 1.1}, {"5": 0.75, "9": 1.3}),
    "bearing": DemoMachine(bearing, (knocks, extra_tones, friction), (-28, -8), (5, 4),
        "vel", {"10": 0.9, "12": 1.0, "14": 1.1}, {"6": 0.8, "18": 1.2}),
    "fan": DemoMachine(fan, (knocks, extra_tones, rattle), (-25, -7), (5, 2),
        "spd", {"low": 0.9, "mid": 1.0, "high": 1.1}, {"min": 0.8, "max": 1.25}),
    "gearbox": DemoMachine(gearbox, (extra_tones, knocks, friction), (-22, -6), (6, 2),
        "volt", {"1.5": 0.92, "2.0": 1.0, "2.5": 1.08}, {"1.0": 0.78, "3.0": 1.22}),
    "slider": DemoMachine(slider, (knocks, rattle, friction), (-32, -10), (5, 6),
        "vel", {"500": 0.9, "600": 1.0, "700": 1.1}, {"400": 0.86, "800": 1.14}),
    "valve": DemoMachine(valve, (knocks, extra_tones, friction), (-38, -12), (6, 3),
        "pat", {"00": 0.85, "01": 1.0, "02": 1.15}, {"03": 0.65, "04": 1.4}),
}
# fmt: on
EVAL_MACHINES = {  # the same sounds at other frequencies
    "3DPrinter": replace(DEV_MACHINES["slider"], pitch=1.25),
    "AirCompressor": replace(DEV_MACHINES["valve"], pitch=0.7),
    "BrushlessMotor": replace(DEV_MACHINES["gearbox"], pitch=1.4),
    "HairDryer": replace(DEV_MACHINES["fan"], pitch=1.9),
    "HoveringDrone": replace(DEV_MACHINES["ToyCar"], pitch=0.75),
    "RoboticArm": replace(DEV_MACHINES["gearbox"], pitch=0.65),
    "Scanner": replace(DEV_MACHINES["slider"], pitch=0.7),
    "ToothBrush": replace(DEV_MACHINES["bearing"], pitch=0.8),
    "ToyCircuit": replace(DEV_MACHINES["ToyTrain"], pitch=1.35),
}


def synthesise(rng: np.random.Generator, n: int, machine: DemoMachine, clip: DemoClip) -> np.ndarray:
    """Samples (n,), int16, of a clip."""
    speed = (machine.source | machine.target)[clip.condition] * (1 + SPEED_SPREAD * rng.standard_normal())
    sound = machine.sound(rng, n, speed, machine.pitch)
    if clip.label == "anomaly":
        defect = machine.defects[rng.integers(len(machine.defects))]
        sound = mix((sound, 0), (defect(rng, n, speed), rng.uniform(*machine.severity)))
    timbre = {octave: rng.normal(0, TIMBRE_SPREAD) for octave in (0, 250, 500, 1000, 2000, 4000, 8000)}
    sound = np.fft.irfft(np.fft.rfft(sound) * gains(n, timbre), n)

    background = mix((noise(rng, n, FACTORY[clip.noise]) * (1 + 0.2 * slow_curve(rng, n, 1)), 0))
    clanks = rng.integers(0, n, rng.poisson(CLANKS_PER_SECOND * n / SAMPLE_RATE))
    background += CLANK_GAIN * strikes(rng, n, clanks, ring(rng.uniform(800, 4000), rng.uniform(0.01, 0.04)))

    snr = machine.snr[clip.domain == "target"] + rng.normal(0, SNR_SPREAD)
    signal = CLIP_RMS * mix((mix((sound, snr), (background, 0)), rng.normal(0, LEVEL_SPREAD)))
    signal *= min(1, PEAK_LIMIT / np.max(np.abs(signal)))
    return np.round(32767 * signal).astype(np.int16)
