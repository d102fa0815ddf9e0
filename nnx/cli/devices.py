"""What can run here, and why not the rest."""

from __future__ import annotations

from nnx.cli.output import bytes_text, note, on_terminal, print_json, print_rows
from nnx.device import default_device, devices
from nnx.errors import DeviceError


def list_devices(*, as_json: bool) -> None:
    """Print every device, available or with the reason."""
    found = devices()
    if as_json:
        print_json([device._asdict() for device in found])
        return
    people = on_terminal()
    print_rows(
        ("device", "available", "description", "memory" if people else "memory_bytes"),
        [
            (
                device.name,
                "yes" if device.available else "no",
                device.description or device.reason,
                bytes_text(device.memory_bytes) if people else device.memory_bytes,
            )
            for device in found
        ],
    )
    try:
        note(f"without --device, nnx computes on {default_device().name}.")
    except DeviceError as error:
        note(f"without --device, nnx has no device: {error}")
