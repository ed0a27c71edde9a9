"""One method of a service behind its route: read what was sent, call, write what came back."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable
from functools import cached_property, partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import PydanticCustomError, ValidationError, from_json

from . import asgi, contents, failures, floats, render
from .exchange import JSON, Exchange
from .quick import Quick
from .standin.context import Call, call as current_call
from .standin.descriptors import ARGS, KWARGS, IORootModel
from .standin.exceptions import BentoMLException

if TYPE_CHECKING:
    from .application import Application
    from .batching import Batcher

__all__ = ["Endpoint"]

log = logging.getLogger("bentoml.serve")
FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
PICKLE = b"application/vnd.bentoml+pickle"
MAX_TYPES = 64
_END = object()

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Endpoint:
    """Called with an exchange; it is answered in the end, whatever happens."""

    def __init__(self, application: Application, name: str, method: Any) -> None:
        self.application, self.name, self.method = application, name, method
        self.spec = method.input_spec
        self.validator = self.spec.__pydantic_validator__
        self._root = bool(getattr(self.spec, "__root_input__", False))
        self.single = issubclass(self.spec, IORootModel)
        self.raw = self.single and self.spec.model_json_schema().get("type") in ("string", "file")
        self._special = {ARGS, KWARGS} & set(self.spec.model_fields)
        self._files = bool(self.spec.multipart_fields)
        self._floats = floats.reader(self.spec)
        self._context = method.ctx_param
        self.writer = render.writer(method.output_spec)
        self.answers_values = not (method.is_stream or method.output_spec.multipart_fields)
        self.answers_json = self.writer.media_type == JSON and self.answers_values
        func = method.func
        self._asynchronous = inspect.iscoroutinefunction(func)
        self._generator = inspect.isgeneratorfunction(func)
        self._async_generator = inspect.isasyncgenfunction(func)
        self._plain: set[type] = set()  # of outputs that need no Starlette
        self.quick = Quick(lambda: application.threads.count == 1 and application.watched())
        self._batcher: Batcher | None = None
        if method.batchable:
            from .batching import Batcher

            self._batcher = Batcher(self)

    @cached_property
    def inputs(self) -> Any:
        """What it takes, for contents that are no JSON."""
        from . import inputs

        return inputs.of(self.spec, self.method.func, self._context)

    def __call__(self, exchange: Exchange) -> None:
        kind = exchange.content_type
        if kind != JSON:
            kind = kind.partition(b";")[0].strip()
        form = exchange.form
        if form is None and (kind != JSON or exchange.accept not in contents.AS_JSON):
            form = exchange.form = contents.form(self, exchange, kind)
        context = None
        if self._context or self._files or kind in FORMS:
            context = contextvars.copy_context()
            context.run(current_call.set, Call(asgi.scope_of(exchange), bytes(exchange.body)))
        if kind in FORMS or (self.single and self._files and exchange.body[:4] == b"http"):
            self._spawn(exchange, self._read_slowly(exchange, kind, cast(contextvars.Context, context)), context)
            return
        try:
            if kind == PICKLE:
                raise BentoMLException(
                    f"{PICKLE.decode()} is not allowed in main server", error_code=HTTPStatus.UNSUPPORTED_MEDIA_TYPE
                )
            if form is not None:
                arguments = form.read(exchange) if context is None else context.run(form.read, exchange)
            else:
                arguments = self.read(exchange.body) if context is None else context.run(self.read, exchange.body)
        except Exception as error:
            self._fail(exchange, error, context, asked=isinstance(error, ValidationError))
            return
        self._run(exchange, arguments, context)

    def read(self, body: bytes | bytearray) -> Arguments:
        if self._floats is not None and (given := self._floats(body)) is not None:
            return (), given
        body = body or b"{}"
        if not self.single:
            return self.arguments(self.validator.validate_json(body))
        value: Any = bytes(body)
        if not self.raw:
            try:
                value = from_json(body)
            except ValueError as error:
                raise self._no_json(error) from None
        return self.arguments(self.validator.validate_python({"root": value}))

    def _no_json(self, error: ValueError) -> ValidationError:
        reason = PydanticCustomError("json_invalid", "Invalid JSON: {error}", {"error": str(error)})
        return ValidationError.from_exception_data(self.spec.__name__, [{"type": reason, "loc": (), "input": None}])

    def arguments(self, read: Any) -> Arguments:
        if self._root:
            return ((read.root if self.single else read,), {})
        given = read.__dict__
        args: tuple[Any, ...] = ()
        if self._special:
            if ARGS in given:
                args = (given.pop(ARGS),)
            if KWARGS in given:
                given.update(given.pop(KWARGS))
        return args, given

    async def _read_slowly(self, exchange: Exchange, kind: bytes, context: contextvars.Context) -> None:
        """A form, or a file that is to be fetched."""
        from . import forms

        try:
            if kind in FORMS:
                read = self.spec.model_validate(await forms.values(current_call.get().request, self.spec))
            else:
                read = self.validator.validate_python({"root": await forms.fetched(bytes(exchange.body))})
            arguments = self.arguments(read)
        except Exception as error:
            self._fail(exchange, error, context, asked=isinstance(error, ValidationError))
            return
        exchange.on_gone = None
        self._run(exchange, arguments, context)

    def _run(self, exchange: Exchange, arguments: Arguments, context: contextvars.Context | None) -> None:
        if self._batcher is not None:
            self._batcher.add(exchange, arguments, context)
            return
        args, kwargs = arguments
        if self._context:
            kwargs[self._context] = self.application.service.context
        instance, func = self.application.instance, self.method.func
        if self.quick.proven:
            self._call_here(exchange, args, kwargs, context)
        elif self.method.is_stream:
            self._spawn(exchange, self._stream(exchange, func(instance, *args, **kwargs), context), context)
        elif self._asynchronous:
            self._spawn(exchange, self._call(exchange, func(instance, *args, **kwargs), context), context)
        else:
            self._call_in_thread(exchange, lambda: func(instance, *args, **kwargs), context)

    def _call_here(
        self, exchange: Exchange, args: tuple[Any, ...], kwargs: dict[str, Any], context: contextvars.Context | None
    ) -> None:
        application, func = self.application, self.method.func
        output: Any = None
        error: BaseException | None = None
        # The method is not part of this loop: it may run one of its own, as it could in a thread.
        asyncio._set_running_loop(None)
        started = application.here_since = time.perf_counter()
        try:
            if context is None:
                output = func(application.instance, *args, **kwargs)
            else:
                output = context.run(func, application.instance, *args, **kwargs)
        except BaseException as raised:
            error = raised
        finally:
            application.here_since = 0.0
            asyncio._set_running_loop(application.loop)
        self.quick.took(time.perf_counter() - started)
        self._finish(exchange, output, error, context)

    def _call_in_thread(self, exchange: Exchange, run: Callable[[], Any], context: contextvars.Context | None) -> None:
        threads = self.application.threads
        if threads.queued >= self.application.limits.max_queue:
            failures.answer_error(exchange, 503, "process is overloaded", retry_after_s=1)
            self._close(context)
            return

        def done(output: Any, error: BaseException | None, seconds: float) -> None:
            self.quick.took(seconds)
            self._finish(exchange, output, error, context)

        known = contextvars.copy_context() if context is None and exchange.trace is not None else context
        job = threads.submit(run if known is None else partial(known.run, run), done)

        def late() -> None:
            job.dropped = True
            self._too_late(exchange, context)

        exchange.timer = self.application.loop.call_later(self.application.timeout_s, late)

    def _spawn(self, exchange: Exchange, work: Any, context: contextvars.Context | None) -> None:
        """Run a coroutine for this exchange until its deadline."""
        loop = self.application.loop
        task = loop.create_task(work, context=context)
        self.application.tasks.add(task)
        task.add_done_callback(self.application.tasks.discard)

        def late() -> None:
            task.cancel()
            self._too_late(exchange, context)

        exchange.timer = loop.call_later(self.application.timeout_s, late)
        if self.method.is_stream:
            exchange.on_gone = task.cancel

    async def _call(self, exchange: Exchange, work: Any, context: contextvars.Context | None) -> None:
        output: Any = None
        error: BaseException | None = None
        try:
            output = await work
        except asyncio.CancelledError as raised:
            if exchange.answered or exchange.gone:
                self._close(context)
                raise
            error = raised
        except BaseException as raised:
            error = raised
        self._finish(exchange, output, error, context)

    async def _stream(self, exchange: Exchange, made: Any, context: contextvars.Context | None) -> None:
        items: AsyncGenerator[Any, None] = made if self._async_generator else self._in_threads(made)
        try:
            try:
                item = await anext(items, _END)
            except Exception as error:
                self._fail(exchange, error, None)
                return
            status, headers = self._head(context)
            exchange.start(status, self.writer.media_type, headers)
            while item is not _END and not exchange.gone:
                exchange.write(self.writer.piece(item))
                await exchange.connection.writable()
                item = await anext(items, _END)
        except Exception as error:
            log.error("Error while streaming response", exc_info=error)
            exchange.break_off()
        except asyncio.CancelledError:
            exchange.break_off()
            raise
        else:
            exchange.end()
        finally:
            await items.aclose()
            await self._after(context)

    async def _in_threads(self, made: Any) -> AsyncGenerator[Any, None]:
        try:
            run = partial(contextvars.copy_context().run, next, made, _END)
            while (item := await self.application.threads.call(run)) is not _END:
                yield item
        finally:
            made.close()

    def _finish(
        self, exchange: Exchange, output: Any, error: BaseException | None, context: contextvars.Context | None
    ) -> None:
        if error is not None:
            self._fail(exchange, error, context)
            return
        try:
            if exchange.form is not None and exchange.form.writes and not _is_response(output):
                status, headers = self._head(context)
                content_type, body, more = exchange.form.write(output)
                kept = [pair for pair in headers if pair[0] != b"content-type"]
                exchange.answer(status, content_type, body, [*kept, *more])
                self._close(context)
                return
            response = None
            if context is not None or type(output) not in self._plain:
                response = self._response(output, context)
            if response is None:
                content_type, body = self.writer.body(output)
                exchange.answer(200, content_type, body)
                self._close(context)
                return
        except Exception as raised:
            self._fail(exchange, raised, context)
            return
        self.application.spawn(self._respond(exchange, response, context), context)

    def _response(self, output: Any, context: contextvars.Context | None) -> Any:
        """A Starlette response, where the method gave one or asked for what takes one."""
        if _is_response(output):
            return output
        response = self.writer.response(output, self._touched(context))
        if response is None and len(self._plain) < MAX_TYPES:
            self._plain.add(type(output))
        return response

    async def _respond(self, exchange: Exchange, response: Any, context: contextvars.Context | None) -> None:
        try:
            if context is not None and self._context:
                render.apply(self._call_of(context), response)
            await asgi.send_response(exchange, response, asgi.scope_of(exchange))
        except Exception as error:
            if not exchange.status:
                failures.answer_failure(exchange, error)
            elif not exchange.gone:
                log.error("Error while sending a response", exc_info=error)
        finally:
            if response.background is not None:
                await response.background()
            await self._after(context)

    def _too_late(self, exchange: Exchange, context: contextvars.Context | None) -> None:
        failures.answer_error(exchange, 504, f"Not able to process the request in {self.application.timeout_s} seconds")

    def _fail(
        self, exchange: Exchange, error: BaseException, context: contextvars.Context | None, *, asked: bool = False
    ) -> None:
        if asked and exchange.header(b"content-encoding").lower() not in (b"", b"identity"):
            error = contents.encoded(exchange)
        failures.answer_failure(exchange, error, asked=asked)
        self._close(context)

    def _call_of(self, context: contextvars.Context) -> Call:
        return context[current_call]

    def _touched(self, context: contextvars.Context | None) -> bool:
        """The method has said something about its answer."""
        return context is not None and "response" in self._call_of(context).__dict__

    def _head(self, context: contextvars.Context | None) -> tuple[int, list[tuple[bytes, bytes]]]:
        if context is None or not self._touched(context):
            return 200, []
        return render.head(self._call_of(context))

    def _close(self, context: contextvars.Context | None) -> None:
        if context is None:
            return
        if self._touched(context) and "background" in self._call_of(context).response.__dict__:
            self.application.spawn(self._after(context), context)
        else:
            self._call_of(context).close()

    async def _after(self, context: contextvars.Context | None) -> None:
        if context is None:
            return
        this = self._call_of(context)
        try:
            if self._touched(context) and "background" in this.response.__dict__:
                await this.response.background()
        finally:
            this.close()


def _is_response(output: Any) -> bool:
    responses = sys.modules.get("starlette.responses")
    return responses is not None and isinstance(output, responses.Response)
