"""Make a small demo dataset in the form of DCASE 2024 Challenge Task 2, from nothing but a seed.

    python tools/make_demo_data.py --dataset_directory data            # the seven development machine types
    python tools/make_demo_data.py --dataset_directory data --eval     # the nine evaluation machine types, unlabelled

A clip is the sound of a machine under its operating condition, in an anomalous clip the sound of a defect with it,
and factory noise behind both. As in the challenge, training clips are normal and nearly all of the source domain;
the target domain runs at other speeds, in another factory noise. The difficulty is set so that the autoencoder's
results look like those on real data; they say nothing about real machines.

Signals are float arrays of n samples at `SAMPLE_RATE`; levels and gains are in dB, frequencies in Hz, rates in events a
second. Each clip draws from a generator of its own, seeded by what the clip is, so it sounds the same whichever other
clips are made (and is equal to the bit on the same kind of processor).
"""

import argparse
import csv
import json
import shutil
import signal
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import fasteners
import numpy as np
import soundfile

DATASET = "dcase2024t2"
SAMPLE_RATE = 16000
TARGET_SHARE = 1 / 8  # of the training clips (in the challenge 10 of 1000)
RECORD_NAME = "demo_parameters.json"  # beside train/ and test/: what a machine type was made from
GENERATOR_VERSION = 1  # part of that record: raise it when the same options give other sounds

CLIP_RMS = 0.03  # of full scale; leaves room for the peaks of impulsive machines
PEAK_LIMIT = 0.85  # of full scale; a clip that would exceed it is scaled down
PULSE_TIME = np.arange(SAMPLE_RATE // 4, dtype=np.float32) / SAMPLE_RATE  # seconds; pulses have died away after it

# What differs from clip to clip, normal ones too, so that not every difference is an anomaly (standard deviations)
SPEED_SPREAD = 0.01  # of the speed
LEVEL_SPREAD = 1.0  # dB, whole clip
SNR_SPREAD = 1.0  # dB, machine against factory noise
TIMBRE_SPREAD = 1.0  # dB, each octave of the machine sound: microphone and mounting
CLANKS_A_SECOND = 0.3  # transients in the factory
CLANK_GAIN = 4.0  # their peak, in units of the factory noise's RMS

FACTORY = {  # attribute value: spectrum of the factory noise
    "A": {0: -8, 100: 0, 400: -6, 1500: -16, 4000: -26, 8000: -34},
    "B": {0: -14, 100: -4, 500: 0, 1200: -10, 4000: -22, 8000: -32},
    "C": {0: -10, 100: 0, 300: -5, 1500: -12, 3000: -14, 5000: -22, 8000: -30},
}


# --- Building blocks of sounds ---
def mix(*parts):
    """Sum of (signal, level in dB) pairs, each signal first scaled to unit RMS."""
    return sum(signal * (10 ** (level / 20) / (np.sqrt(np.mean(signal**2)) + 1e-12)) for signal, level in parts)


def slow_curve(rng, n, rate):
    """Smooth random curve (n,), values in -1 … 1, about `rate` turns a second."""
    knots = rng.uniform(-1, 1, size=max(2, int(n / SAMPLE_RATE * rate) + 2))
    return np.interp(np.linspace(0, knots.size - 1, n), np.arange(knots.size), knots).astype(np.float32)


def gains(n, curve):
    """Factor (n // 2 + 1,) for each frequency of a real FFT of n samples; curve: {frequency in Hz: gain in dB}."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, n // 2 + 1)
    return np.interp(frequencies, list(curve), [10 ** (gain / 20) for gain in curve.values()]).astype(np.float32)


def shaped(signal, curve):
    """Filter a signal (n,) by a curve {frequency in Hz: gain in dB}."""
    return np.fft.irfft(np.fft.rfft(signal) * gains(signal.size, curve), signal.size)


def noise(rng, n, curve):
    """Gaussian noise (n,) with the spectrum `curve`, {frequency in Hz: level in dB}."""
    spectrum = rng.standard_normal(2 * (n // 2 + 1), dtype=np.float32).view(np.complex64)
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
    """Sample positions of events at `rate` a second, from a random start, each off by about `jitter` periods."""
    count = int(n / SAMPLE_RATE * rate) + 1
    periods = np.arange(count) + rng.uniform() + jitter * rng.standard_normal(count)
    positions = np.round(periods * SAMPLE_RATE / rate).astype(int)
    return positions[(positions >= 0) & (positions < n)]


def strikes(rng, n, positions, pulse):
    """The same pulse at each position, with a level that varies by some dB."""
    sound = np.zeros(n + pulse.size, dtype=np.float32)
    for position, level in zip(positions, rng.normal(0, 2, positions.size), strict=True):
        sound[position : position + pulse.size] += np.float32(10 ** (level / 20)) * pulse
    return sound[:n]


def ring(frequency, decay):
    """Pulse that rings at `frequency` and falls by 1/e in `decay` seconds."""
    return np.exp(-PULSE_TIME / decay) * np.sin(2 * np.pi * frequency * PULSE_TIME)


def hiss(rng, curve, decay):
    """Pulse of noise with the spectrum `curve` that falls by 1/e in `decay` seconds."""
    return np.exp(-PULSE_TIME / decay) * noise(rng, PULSE_TIME.size, curve)


# --- Machines: normal sound (n,) at a speed relative to nominal; `pitch` scales frequencies set by size ---
def toy_car(rng, n, speed, pitch):
    """Toy car: a motor whine with varying revolutions, and its wheels."""
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
    clacks = strikes(rng, n, both_axles[both_axles < n], ring(1150 * pitch, 0.012) + 0.5 * ring(2700 * pitch, 0.006))
    return mix((rumble, 0), (hum, -6), (clacks, -7))


def bearing(rng, n, speed, pitch):
    """Bearing test rig: rolling elements make a high-frequency structure ring, over the tones of the shaft."""
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
    """Gearbox: gear-mesh tones whose sidebands come from the turning of the shaft."""
    shaft = 23 * speed * (1 + 0.004 * slow_curve(rng, n, 1))
    mesh = tones(rng, 27 * pitch * shaft, [0, -4, -9, -15, -20])
    turning = 1 + 0.5 * tones(rng, shaft, [0, -8])
    churning = noise(rng, n, {0: -10, 400: 0, 1800: -9, 4000: -20, 8000: -36})
    return mix((mesh * turning, 0), (churning, -3))


def slider(rng, n, speed, pitch):
    """Slide rail: friction noise and a motor tone sweep up and down with each stroke, and a thud where it turns."""
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
    closes = opens + int(0.16 * SAMPLE_RATE)
    click = ring(2100 * pitch, 0.004) + 0.7 * ring(3600 * pitch, 0.003)
    air = strikes(rng, n, opens, hiss(rng, {0: -30, 1500: -10, 4500 * pitch: 0, 8000: -5}, 0.05))
    clicks = strikes(rng, n, opens, click) + 0.5 * strikes(rng, n, closes[closes < n], click)
    return mix((air, 0), (clicks, 0), (tones(rng, np.full(n, 100.0), [0, -6, -8, -14]), -10))


# --- Defects: the sound (n,) that an anomaly adds ---
def knocks(rng, n, speed):
    """Something hits the housing at each turn."""
    return strikes(rng, n, instants(rng, n, rng.uniform(5, 14) * speed, 0.03), ring(rng.uniform(900, 3200), 0.006))


def extra_tones(rng, n, speed):
    """A detuned part sings at a frequency that fits none of the machine's tones, and wavers."""
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
class Machine:
    """A machine type: its sound, the conditions of its two domains, and how hard its anomalies are to hear."""

    sound: Callable  # (rng, n, speed, pitch) -> normal sound
    defects: tuple  # an anomalous clip draws one of these: (rng, n, speed) -> sound
    attribute: str  # name of the operating condition in file names
    source: dict  # {attribute value: speed relative to nominal} of the source domain, in factory noise A or B
    target: dict  # the same of the target domain, in factory noise C
    severity: tuple  # mildest and worst level of a defect against the machine sound, dB
    snr: tuple  # level of the machine sound against the factory noise in the source and the target domain, dB
    pitch: float = 1.0

    def conditions(self, domain):
        """[(attribute value, speed, factory noise)] of a domain; its clips take them in turn."""
        speeds, factories = (self.source, "AB") if domain == "source" else (self.target, "C")
        return [(value, speed, factory) for factory in factories for value, speed in speeds.items()]


# fmt: off
DEV_MACHINES = {
    "ToyCar": Machine(
        toy_car, (knocks, extra_tones, rattle), "spd", severity=(-33, -11), snr=(6, 5),
        source={"28V": 0.92, "31V": 1.0, "34V": 1.08}, target={"25V": 0.88, "37V": 1.12}),
    "ToyTrain": Machine(
        toy_train, (knocks, rattle, friction), "spd", severity=(-33, -11), snr=(6, 3),
        source={"6": 0.9, "7": 1.0, "8": 1.1}, target={"5": 0.75, "9": 1.3}),
    "bearing": Machine(
        bearing, (knocks, extra_tones, friction), "vel", severity=(-28, -8), snr=(5, 4),
        source={"10": 0.9, "12": 1.0, "14": 1.1}, target={"6": 0.8, "18": 1.2}),
    "fan": Machine(
        fan, (knocks, extra_tones, rattle), "spd", severity=(-25, -7), snr=(5, 2),
        source={"low": 0.9, "mid": 1.0, "high": 1.1}, target={"min": 0.8, "max": 1.25}),
    "gearbox": Machine(
        gearbox, (extra_tones, knocks, friction), "volt", severity=(-22, -6), snr=(6, 2),
        source={"1.5": 0.92, "2.0": 1.0, "2.5": 1.08}, target={"1.0": 0.78, "3.0": 1.22}),
    "slider": Machine(
        slider, (knocks, rattle, friction), "vel", severity=(-32, -10), snr=(5, 6),
        source={"500": 0.9, "600": 1.0, "700": 1.1}, target={"400": 0.86, "800": 1.14}),
    "valve": Machine(
        valve, (knocks, extra_tones, friction), "pat", severity=(-38, -12), snr=(6, 3),
        source={"00": 0.85, "01": 1.0, "02": 1.15}, target={"03": 0.65, "04": 1.4}),
}
# fmt: on
EVAL_MACHINES = {  # the same families with other frequencies
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


# --- Clips ---
@dataclass(frozen=True)
class Clip:
    """What a clip is: everything but its samples."""

    split: str  # train or test
    domain: str  # source or target
    label: str  # normal or anomaly
    number: int  # counts the clips of the same split, domain and label
    attributes: tuple  # ((name, value), ...), as in attributes_00.csv
    speed: float  # relative to nominal
    factory: str  # key of FACTORY

    def labelled_name(self):
        """File name, like section_00_source_train_normal_0000_spd_28V_noise_A.wav."""
        attributes = "_".join(f"{name}_{value}" for name, value in self.attributes)
        return f"section_00_{self.domain}_{self.split}_{self.label}_{self.number:04d}_{attributes}.wav"


def plan_clips(name, machine, options):
    """{path below the machine type's directory: Clip}, the training clips first.

    Of the test clips a quarter is of each domain and label. The evaluation set's are numbered in random order.
    """
    n_target = max(1, round(TARGET_SHARE * options["train_clips"]))
    groups = [("train", "source", "normal", options["train_clips"] - n_target), ("train", "target", "normal", n_target)]
    for domain in ("source", "target"):
        groups += [("test", domain, label, options["test_clips"] // 4) for label in ("normal", "anomaly")]
    clips = []
    for split, domain, label, count in groups:
        conditions = machine.conditions(domain)
        for number in range(count):
            value, speed, factory = conditions[number % len(conditions)]
            attributes = ((machine.attribute, value), ("noise", factory))
            clips.append(Clip(split, domain, label, number, attributes, speed, factory))

    plan = {f"{clip.split}/{clip.labelled_name()}": clip for clip in clips}
    if options["split"] == "eval_data":
        training, test = clips[: options["train_clips"]], clips[options["train_clips"] :]
        order = np.random.default_rng([options["seed"], zlib.crc32(name.encode()), 2]).permutation(len(test))
        plan = {f"train/{clip.labelled_name()}": clip for clip in training}
        plan |= {f"test/section_00_{number:04d}.wav": test[k] for number, k in enumerate(order)}
    return plan


def synthesise(name, machine, clip, options):
    """Samples (n,), int16, of a clip."""
    identity = [clip.split == "test", clip.domain == "target", clip.label == "anomaly", clip.number]
    rng = np.random.default_rng([options["seed"], zlib.crc32(name.encode()), *map(int, identity)])
    n = round(options["seconds"] * SAMPLE_RATE)

    speed = clip.speed * (1 + SPEED_SPREAD * rng.standard_normal())
    sound = machine.sound(rng, n, speed, machine.pitch)
    if clip.label == "anomaly":
        defect = machine.defects[rng.integers(len(machine.defects))]
        sound = mix((sound, 0), (defect(rng, n, speed), rng.uniform(*machine.severity)))
    sound = shaped(sound, {octave: rng.normal(0, TIMBRE_SPREAD) for octave in (0, 250, 500, 1000, 2000, 4000, 8000)})

    factory = mix((noise(rng, n, FACTORY[clip.factory]) * (1 + 0.2 * slow_curve(rng, n, 1)), 0))
    clanks = rng.integers(0, n, rng.poisson(CLANKS_A_SECOND * n / SAMPLE_RATE))
    factory += CLANK_GAIN * strikes(rng, n, clanks, ring(rng.uniform(800, 4000), rng.uniform(0.01, 0.04)))

    snr = machine.snr[clip.domain == "target"] + rng.normal(0, SNR_SPREAD)
    signal = CLIP_RMS * mix((mix((sound, snr), (factory, 0)), rng.normal(0, LEVEL_SPREAD)))
    signal *= min(1, PEAK_LIMIT / np.max(np.abs(signal)))
    return np.round(32767 * signal).astype(np.int16)


# --- Files ---
def write_machine(directory, name, machine, plan, options):
    """Write a machine type's directory: whole, or not at all. It replaces earlier demo data there."""
    partial = directory.with_name(f".{name}.partial")  # renamed when whole
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
    try:
        for split in ("train", "test"):
            (partial / split).mkdir(parents=True)
        for path, clip in plan.items():
            soundfile.write(partial / path, synthesise(name, machine, clip, options), SAMPLE_RATE, subtype="PCM_16")
        with (partial / "attributes_00.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file_name", "d1p", "d1v", "d2p", "d2v"])
            labelled = {path: clip for path, clip in plan.items() if path.endswith(clip.labelled_name())}
            writer.writerows([f"{name}/{path}", *sum(clip.attributes, ())] for path, clip in labelled.items())
        (partial / RECORD_NAME).write_text(json.dumps(options, indent=2) + "\n")
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_complete(directory, plan, options):
    """True where every clip is there, made with the same options; an error where the data are not the demo's."""
    record = directory / RECORD_NAME
    if not record.exists():
        if directory.exists():
            raise FileExistsError(f"{directory} holds other data than the demo's; name another --dataset_directory")
        return False
    try:
        same = json.loads(record.read_text()) == options
    except ValueError:  # not JSON
        return False
    return same and all((directory / path).is_file() for path in [*plan, "attributes_00.csv"])


# --- Command line ---
def parse_arguments(arguments=None):
    """Options from the command line; ends the program with a message where one is wrong."""
    parser = argparse.ArgumentParser(
        description="Make a small synthetic dataset in the form of DCASE 2024 Task 2.",
        allow_abbrev=False,  # --dataset would be --dataset_directory
    )
    parser.add_argument("--dataset_directory", type=Path, required=True, help=f"the data go to {DATASET}/ in here")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other clips of the same machines")
    parser.add_argument("--train_clips", type=int, default=48, help="of a machine type (%(default)s)")
    parser.add_argument("--test_clips", type=int, default=80, help="of a machine type, a multiple of 4 (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip (%(default)s)")
    parser.add_argument("--machines", nargs="+", metavar="TYPE", help="only these machine types")
    parser.add_argument("--eval", action="store_true", help="the evaluation set instead of the development set")
    args = parser.parse_args(arguments)

    known = EVAL_MACHINES if args.eval else DEV_MACHINES
    args.machines = args.machines or list(known)
    for name in args.machines:
        if name not in known:
            parser.error(f"--machines: no machine type {name} in this set; it has {', '.join(known)}")
    if args.seed < 0:
        parser.error(f"--seed must be 0 or more, not {args.seed}")
    if not 2 <= args.train_clips <= 9999:
        parser.error(f"--train_clips must be 2 to 9999 (each domain needs one), not {args.train_clips}")
    if not 4 <= args.test_clips <= 9996 or args.test_clips % 4:
        parser.error(
            f"--test_clips must be a multiple of 4 (2 domains, 2 labels) from 4 to 9996, not {args.test_clips}"
        )
    if not 0.5 <= args.seconds <= 60:  # refuses nan, too
        parser.error(f"--seconds must be 0.5 to 60, not {args.seconds}")
    return args


def main(arguments=None):
    """Make what the command line asks for; machine types that are there already, from the same options, stay."""
    args = parse_arguments(arguments)
    machines = EVAL_MACHINES if args.eval else DEV_MACHINES
    options = {"generator": GENERATOR_VERSION, "split": "eval_data" if args.eval else "dev_data", "seed": args.seed}
    options |= {"train_clips": args.train_clips, "test_clips": args.test_clips, "seconds": args.seconds}
    for name in args.machines:
        directory = args.dataset_directory / DATASET / options["split"] / "raw" / name
        plan = plan_clips(name, machines[name], options)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with fasteners.InterProcessLock(directory.parents[1] / ".demo.lock"):
                if is_complete(directory, plan, options):
                    print(f"{name}: already there, reused {directory}", flush=True)
                    continue
                write_machine(directory, name, machines[name], plan, options)
        except (OSError, soundfile.SoundFileError) as error:
            raise SystemExit(f"make_demo_data.py: {name} could not be made: {error}") from None
        print(f"{name}: made {args.train_clips} training and {args.test_clips} test clips in {directory}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the machine types made so far are kept", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
