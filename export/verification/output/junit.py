"""JUnit XML of a verification, one test case for each check, as CI services read it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from textual_vision.export.verification.verification import Verification

CLASS = "verify"


def junit_from_verification(found: Verification, *, error: str = "") -> bytes:
    """Return the XML, UTF-8. `error` is the message that ended the verification early, one more test case."""
    failures = sum(check.failed for check in found.checks)
    counts = {
        "tests": str(len(found.checks) + bool(error)),
        "failures": str(failures),
        "errors": str(int(bool(error))),
        "skipped": "0",
        "time": f"{found.timings.get('all', 0.0):.2f}",
    }
    root = ET.Element("testsuites", counts)
    suite = ET.SubElement(root, "testsuite", {"name": _printable(f"verify {found.bundle}"), **counts})
    for check in found.checks:
        attributes = {"classname": f"{CLASS}.{check.layer}", "name": _printable(check.id), "time": "0"}
        case = ET.SubElement(suite, "testcase", attributes)
        if check.failed:
            message = _printable(check.sentence())
            failure = ET.SubElement(case, "failure", {"message": message, "type": check.cause or "parity"})
            failure.text = message
        else:
            text = f"{check.figure}; required: {check.tolerance}"
            ET.SubElement(case, "system-out").text = _printable(text)
    if error:
        case = ET.SubElement(suite, "testcase", {"classname": CLASS, "name": "verify", "time": "0"})
        ET.SubElement(case, "error", {"message": _printable(error), "type": "error"})
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _printable(text: str) -> str:
    """The text without the control characters that XML 1.0 excludes."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
