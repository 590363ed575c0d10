#include "coordinator/waves.h"

enum { ROUNDS = 2, SOON = 32, RARELY = 1024 };

static const double STRETCH_SECONDS = 0.05, BETTER = 1.04; /* shorter stretches, and smaller gains, are noise */

static int32_t at_most(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static void stretch_begin(coord_waves *w)
{
    w->steps = 0;
    w->tokens = 0;
}

/* Steps of the old division come back first, those of the new one fall into step. */
static void use(coord_waves *w, int32_t waves)
{
    w->waves = waves;
    w->won = false;
    w->unsettled = w->most;
    stretch_begin(w);
}

static void class_enter(coord_waves *w, int32_t at)
{
    coord_waves_class *c = &w->of[at];
    w->at = at;
    if (c->waves == 0)
        *c = (coord_waves_class){.waves = w->first, .interval = SOON, .left = w->first == w->most ? 2 : SOON, .fewer = true};
    use(w, c->waves);
}

void coord_waves_init(coord_waves *w, int32_t most, int32_t first)
{
    *w = (coord_waves){.most = most, .first = first};
    class_enter(w, 0);
}

int32_t coord_waves_now(const coord_waves *w)
{
    return w->waves;
}

/* Half or twice as many as the best; the other way where there are no more, or no fewer. */
static int32_t trial(const coord_waves *w, coord_waves_class *c)
{
    c->fewer = c->waves == w->most || (c->fewer && c->waves > 1);
    return c->fewer ? c->waves / 2 : at_most(2 * c->waves, w->most);
}

static void stretch_end(coord_waves *w, double rate)
{
    coord_waves_class *c = &w->of[w->at];
    bool more = rate > BETTER * c->rate;
    stretch_begin(w);
    if (w->waves == c->waves) {
        c->rate = rate > c->rate ? rate : (rate + c->rate) / 2; /* a hiccup should not make a trial look good */
        if (--c->left <= 0)
            use(w, trial(w, c));
    } else if (more && !w->won) {
        w->won = true;
    } else if (more) {
        c->waves = w->waves;
        c->rate = rate;
        c->interval = SOON;
        c->left = c->waves == 1 || c->waves == w->most ? SOON : 1; /* further in the same direction, soon */
        w->won = false;
    } else {
        c->fewer = !c->fewer;
        c->left = c->interval;
        c->interval = at_most(2 * c->interval, RARELY);
        use(w, c->waves);
    }
}

void coord_waves_step(coord_waves *w, double clock, int32_t decodes, int32_t running, bool prompts)
{
    int32_t at = 0;
    while (at < COORD_WAVES_CLASSES - 1 && running >> (at + 1) > 0)
        at++;
    if (w->most == 1)
        return;
    if (at != w->at)
        class_enter(w, at);
    if (prompts) /* no time for trials */
        use(w, w->of[at].waves);
    if (w->unsettled > 0) {
        w->unsettled--;
        return;
    }
    if (w->steps >= ROUNDS * w->waves && clock - w->began >= STRETCH_SECONDS)
        stretch_end(w, (double)w->tokens / (clock - w->began));
    if (w->unsettled > 0)
        return;
    w->began = w->steps == 0 ? clock : w->began;
    w->steps++;
    w->tokens += decodes;
}
