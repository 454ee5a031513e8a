import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/**
 * Registers cases and runs them a few at a time, each with a time limit; prints one PASS, FAIL or
 * SKIP line a case.
 */
final class Cases {
    interface Body {
        void run() throws Exception;
    }

    static final class Skip extends RuntimeException {
        Skip(String why) {
            super(why);
        }
    }

    private record Case(int tier, String name, int limitSeconds, Body body) {}

    static final String BOOTSTRAP = env("BOOTSTRAP", "127.0.0.1:9092");
    private static final String TIER = env("TIER", "4");
    private static final Pattern ONLY = Pattern.compile(env("ONLY", "."));
    private static final List<Case> CASES = new ArrayList<>();

    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }

    static void add(int tier, String name, Body body) {
        add(tier, name, 60, body);
    }

    static void add(int tier, String name, int limitSeconds, Body body) {
        String full = "[" + tier + "] java: " + name;
        boolean wanted =
                TIER.startsWith("=")
                        ? tier == Integer.parseInt(TIER.substring(1))
                        : tier <= Integer.parseInt(TIER);
        if (wanted && ONLY.matcher(full).find())
            CASES.add(new Case(tier, full, limitSeconds, body));
    }

    static void runAll() throws Exception {
        CASES.sort((a, b) -> a.tier - b.tier);
        ExecutorService slots = Executors.newFixedThreadPool(Integer.parseInt(env("JOBS", "4")));
        AtomicInteger failed = new AtomicInteger();
        for (Case c : CASES) slots.submit(() -> failed.addAndGet(attempt(c) ? 0 : 1));
        slots.shutdown();
        slots.awaitTermination(1, TimeUnit.HOURS);
        System.out.flush();
        Runtime.getRuntime()
                .halt(
                        failed.get() == 0
                                ? 0
                                : 1); // clients that a case left open must not hold the process
    }

    private static boolean attempt(Case c) {
        long start = System.nanoTime();
        CompletableFuture<Void> done = new CompletableFuture<>();
        Thread thread =
                new Thread(
                        () -> {
                            try {
                                c.body.run();
                                done.complete(null);
                            } catch (Throwable e) {
                                done.completeExceptionally(e);
                            }
                        });
        thread.setDaemon(true);
        thread.start();
        String result = "PASS", reason = "";
        try {
            done.get(c.limitSeconds, TimeUnit.SECONDS);
        } catch (TimeoutException e) {
            StackTraceElement[] stack = thread.getStackTrace();
            String at = "";
            for (StackTraceElement s : stack)
                if (s.getClassName().startsWith("Smoke") && at.isEmpty())
                    at = " (line " + s.getLineNumber() + ")";
            result = "FAIL";
            reason = "not finished within " + c.limitSeconds + " s" + at;
            thread.interrupt();
        } catch (ExecutionException e) {
            Throwable cause = e.getCause();
            result = cause instanceof Skip ? "SKIP" : "FAIL";
            reason = cause instanceof Skip ? cause.getMessage() : cause.toString();
            for (StackTraceElement s : cause.getStackTrace())
                if (result.equals("FAIL")
                        && s.getFileName() != null
                        && s.getFileName().startsWith("Smoke")) {
                    reason += " (line " + s.getLineNumber() + ")";
                    break;
                }
        } catch (InterruptedException e) {
            result = "FAIL";
            reason = "interrupted";
        }
        String took =
                env("TIMES", "").isEmpty()
                        ? ""
                        : String.format(" (%.1f s)", (System.nanoTime() - start) / 1e9);
        synchronized (CASES) {
            System.out.println(
                    result
                            + " "
                            + c.name
                            + took
                            + (reason.isEmpty() ? "" : ": " + reason.replace('\n', ' ')));
        }
        return !result.equals("FAIL");
    }

    static void check(boolean condition, Object what) {
        if (!condition) throw new AssertionError(String.valueOf(what));
    }

    static void equal(Object got, Object want, String what) {
        if (!got.equals(want))
            throw new AssertionError(what + ": got " + cut(got) + ", want " + cut(want));
    }

    private static String cut(Object value) {
        String text = String.valueOf(value);
        return text.length() > 120 ? text.substring(0, 120) + "…" : text;
    }

    /** The call must fail with this exception, as it is or as the cause. */
    static <E extends Throwable> E fails(Class<E> kind, Callable<?> call) {
        try {
            call.call();
        } catch (Throwable e) {
            for (Throwable t = e; t != null; t = t.getCause())
                if (kind.isInstance(t)) return kind.cast(t);
            throw new AssertionError("want " + kind.getSimpleName() + ", got " + e);
        }
        throw new AssertionError("want " + kind.getSimpleName() + ", got no error");
    }

    static void until(
            int limitSeconds, Callable<Boolean> condition, Body step, Supplier<Object> what)
            throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(limitSeconds);
        while (System.nanoTime() < end) {
            if (condition.call()) return;
            step.run();
        }
        throw new AssertionError("not within " + limitSeconds + " s: " + what.get());
    }
}
