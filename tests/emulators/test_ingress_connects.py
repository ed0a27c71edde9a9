"""How the ingress finds the API server: by a kubeconfig, over TLS, with keys that are files or in the text."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ekiben.emulators.kubernetes.ingress.following import connect
from ekiben.emulators.kubernetes.pki import Authority
from ekiben.errors import SpecError


@pytest.mark.parametrize("inline", [True, False])
def test_a_client_certificate_opens_the_api(tmp_path: Path, inline: bool) -> None:
    authority = Authority(tmp_path)
    authority.issue("server", "kube-apiserver", names=("127.0.0.1",))
    authority.issue("admin", "somebody")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")

    async def who(request: web.Request) -> web.Response:
        assert request.transport
        return web.Response(text=str(request.transport.get_extra_info("peercert")["subject"]))

    async def play() -> str:
        app = web.Application()
        app.router.add_get("/api/v1/services", who)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            kubeconfig = tmp_path / "kubeconfig"
            authority.kubeconfig("admin", f"https://127.0.0.1:{runner.addresses[0][1]}", kubeconfig)
            if not inline:
                with_files(kubeconfig)
            before = set(Path(tmp_path).iterdir())
            async with connect(kubeconfig) as api, api.get("api/v1/services") as answer:
                assert set(Path(tmp_path).iterdir()) == before
                return await answer.text()
        finally:
            await runner.cleanup()

    assert "somebody" in asyncio.run(play())


@pytest.mark.parametrize("text", ["", "{", "{}", '{"current-context": "c", "contexts": []}', "[]"])
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(SpecError, match="kubeconfig"):
        connect(file)
    with pytest.raises(SpecError, match="nowhere"):
        connect(tmp_path / "nowhere")


def with_files(kubeconfig: Path) -> None:
    """The same kubeconfig, its keys in files beside it."""
    told: dict[str, Any] = json.loads(kubeconfig.read_text())
    for holder in (told["clusters"][0]["cluster"], told["users"][0]["user"]):
        for name in [name for name in holder if name.endswith("-data")]:
            file = kubeconfig.with_name(name)
            file.write_bytes(base64.b64decode(holder.pop(name)))
            holder[name.removesuffix("-data")] = str(file)
    kubeconfig.write_text(json.dumps(told))
