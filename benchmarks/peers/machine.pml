/*
 * The abstract machine of `pasidlab check` in Promela, for Spin 6: schemes mainline and hybrid, the actions bind,
 * unbind, mmap_portal, submit, exit and page_request.
 *
 * One process does everything: each action is a d_step, so that it is one transition and leads from state to state of
 * the abstract machine, one for one. What is hidden is scratch and no part of a state. Spin knows no symmetry; `tasks`
 * of one process are told apart as well, so that its states are those of `pasidlab check --no-symmetry`.
 *
 * The runner (spin.py) defines P, T, D (processes, tasks of each, devices), STEPS and STEP_0.. (the driver's), SYNCS and
 * SYNC_0.. (the IOMMU driver's), WINDOWS, GUARD, CARRIES, and for each device BOUND_d, OWN_d, PORTAL_d, ATS_d; and
 * CAN_BIND, CAN_UNBIND, CAN_MAP, CAN_SUBMIT, CAN_EXIT, CAN_ASK, what the world allows.
 */

#define STOP 1
#define DRAIN 2
#define UNBIND 3
#define TABLE 1
#define IOTLB 2
#define ATC 3
#define DEAD 255
#define NOBODY P

#define AT(p, d) ((p) * D + (d))
#define TASK(p, t) ((p) * T + (t))
#define BIT(n) (1 << (n))
#define STEP(k) ((k) == 0 -> STEP_0 : ((k) == 1 -> STEP_1 : STEP_2))
#define SYNC(k) ((k) == 0 -> SYNC_0 : ((k) == 1 -> SYNC_1 : SYNC_2))
/* an address space has ended, and its entries translate no more */
#define QUIET(p) (!living[p] && !(halted == p && device == D && done <= TABLE_AT))
#define TABLE_AT (SYNC_0 == TABLE -> 0 : (SYNC_1 == TABLE -> 1 : 2))

byte loaded[P * T];     /* what IA32_PASID of a task carries: 0 for nothing, DEAD for a task that has exited */
byte living[P];           /* tasks that live */
byte number[P];           /* mm->iommu_mm->pasid */
byte opened[P * D];       /* the number of the bond */
byte entry[P * D];        /* the number of the table entry */
byte iotlb[P * D];        /* masks of the numbers under which a process is cached */
byte atc[P * D];
bool portal[P * D];
byte closing[P * D];      /* the number of the bond that is being closed */
byte phase[P * D];
byte job[P * D];          /* the number of the work in flight */
byte asked[P * D];        /* the number of its page request in flight */
byte halted = NOBODY;     /* whose kernel call stands in a window, */
byte done;                /* after how many steps, */
byte device;              /* on which device (D: the address space's end), */
byte under;               /* at which number */

#ifdef WITH_BFS
/* a breadth-first verifier has no hidden variables: scratch is part of the state and left at 0 */
byte q, r, s, n, x, unused, owner, held;
#define CLEAN ; q = 0; r = 0; s = 0; n = 0; x = 0; unused = 0; owner = 0; held = 0
#else
hidden byte q, r, s, n, x, unused, owner, held;
#define CLEAN
#endif

/* --- what devices do ------------------------------------------------------------------------------------------- */

inline answer(p, d) {
    owner = NOBODY;
    q = 0;
    do
    :: q < P ->
        if :: opened[AT(q, d)] == asked[AT(p, d)] && living[q] -> owner = q :: else fi;
        q++
    :: else -> break
    od;
    asked[AT(p, d)] = 0;
    if
    :: owner != NOBODY -> assert(owner == p)                 /* page-request-owner */
    :: else -> job[AT(p, d)] = 0
    fi
}

#define COMPLETE(p, d) \
:: d_step { job[AT(p, d)] && !asked[AT(p, d)] -> \
    n = job[AT(p, d)]; job[AT(p, d)] = 0; owner = NOBODY; held = 0; q = 0; \
    do \
    :: q < P && (atc[AT(q, d)] & BIT(n)) -> owner = q; held = 1; break \
    :: q < P && !(atc[AT(q, d)] & BIT(n)) -> q++ \
    :: else -> break \
    od; \
    q = 0; \
    do \
    :: owner == NOBODY && q < P && (iotlb[AT(q, d)] & BIT(n)) -> owner = q \
    :: owner == NOBODY && q < P && !(iotlb[AT(q, d)] & BIT(n)) -> q++ \
    :: else -> break \
    od; \
    q = 0; \
    do \
    :: owner == NOBODY && q < P && entry[AT(q, d)] == n && !QUIET(q) -> owner = q \
    :: owner == NOBODY && q < P && !(entry[AT(q, d)] == n && !QUIET(q)) -> q++ \
    :: else -> break \
    od; \
    if \
    :: owner == NOBODY \
    :: else -> \
        assert(owner == p && (living[p] || halted == p && device == D)); /* isolation */ \
        if \
        :: held \
        :: else -> \
            iotlb[AT(owner, d)] = iotlb[AT(owner, d)] | BIT(n); \
            if :: ATS_##d -> atc[AT(owner, d)] = atc[AT(owner, d)] | BIT(n) :: else fi \
        fi \
    fi CLEAN }

#define ASK(p, d) :: d_step { CAN_ASK && job[AT(p, d)] && !asked[AT(p, d)] -> asked[AT(p, d)] = job[AT(p, d)] CLEAN }

#define ANSWER(p, d) :: d_step { asked[AT(p, d)] -> answer(p, d) CLEAN }

/* --- what instructions do -------------------------------------------------------------------------------------- */

#define IDLE(p, d) (!job[AT(p, d)] && !asked[AT(p, d)])
#define FREE_TASKS(p) (living[p] > (halted == (p)))

#define WRITE_BY(p, d, t) \
:: d_step { PORTAL_##d && CAN_SUBMIT && portal[AT(p, d)] && IDLE(p, d) && FREE_TASKS(p) \
        && loaded[TASK(p, t)] != DEAD -> \
    if \
    :: CARRIES && loaded[TASK(p, t)] == 0 -> loaded[TASK(p, t)] = number[p] \
    :: else \
    fi; \
    if :: CARRIES -> job[AT(p, d)] = loaded[TASK(p, t)] :: else fi CLEAN }

#define RING(p, d) \
:: d_step { !PORTAL_##d && CAN_SUBMIT && opened[AT(p, d)] && !closing[AT(p, d)] && IDLE(p, d) && FREE_TASKS(p) \
        && !(halted == p && device == d) -> \
    job[AT(p, d)] = opened[AT(p, d)] CLEAN }

/* --- what the kernel does -------------------------------------------------------------------------------------- */

#define NOT_REUSED(p, d, new) \
    q = 0; \
    do \
    :: q < P -> \
        if \
        :: q == p \
        :: else -> \
            assert(entry[AT(q, d)] != n);                    /* one-mm-per-number */ \
            x = 0; \
            do \
            :: x < D -> \
                if \
                :: x == d || (new && opened[AT(q, x)] != n) -> \
                    assert(!((iotlb[AT(q, x)] | atc[AT(q, x)]) & BIT(n)) && job[AT(q, x)] != n \
                        && asked[AT(q, x)] != n)             /* no-early-reuse */ \
                :: else \
                fi; \
                x++ \
            :: else -> break \
            od; \
            x = 0; \
            do \
            :: x < T && new -> assert(loaded[TASK(q, x)] != n); x++ \
            :: else -> break \
            od \
        fi; \
        q++ \
    :: else -> break \
    od

#define BIND(p, d) \
:: d_step { CAN_BIND && halted == NOBODY && living[p] && !closing[AT(p, d)] && !opened[AT(p, d)] -> \
    n = (OWN_##d -> 0 : number[p]); \
    if \
    :: n \
    :: else -> \
        n = 1; unused = 0; \
        do \
        :: n < BOUND_##d && !unused -> \
            unused = 1; q = 0; \
            do \
            :: q < P -> \
                if :: (OWN_##d -> opened[AT(q, d)] : number[q]) == n -> unused = 0 :: else fi; \
                q++ \
            :: else -> break \
            od; \
            if :: unused :: else -> n++ fi \
        :: else -> break \
        od \
    fi; \
    if \
    :: n < BOUND_##d -> \
        NOT_REUSED(p, d, (!OWN_##d && !number[p])); \
        if :: OWN_##d :: else -> number[p] = n fi; \
        opened[AT(p, d)] = n; \
        entry[AT(p, d)] = n \
    :: else \
    fi CLEAN }

#define MAP(p, d) \
:: d_step { PORTAL_##d && CAN_MAP && halted == NOBODY && living[p] && opened[AT(p, d)] && !portal[AT(p, d)] \
        && !closing[AT(p, d)] -> \
    if :: GUARD && OWN_##d :: else -> portal[AT(p, d)] = 1 fi CLEAN }

/* Give the number back once tasks and bonds are gone; then nothing may be left. */
inline settle(p) {
    x = 0;
    held = living[p];
    do
    :: x < D -> held = held | opened[AT(p, x)]; x++
    :: else -> break
    od;
    if :: held :: else -> number[p] = 0 fi;
    q = 0;
    do
    :: q < P ->
        held = held | living[q];
        x = 0;
        do
        :: x < D -> held = held | opened[AT(q, x)] | closing[AT(q, x)]; x++
        :: else -> break
        od;
        q++
    :: else -> break
    od;
    q = 0;
    do
    :: q < P && !held ->
        assert(number[q] == 0);                              /* no-leak */
        x = 0;
        do
        :: x < D -> assert(!entry[AT(q, x)] && !iotlb[AT(q, x)] && !atc[AT(q, x)]); x++
        :: else -> break
        od;
        q++
    :: else -> break
    od
}

inline close_further(p, d) {
    assert(entry[AT(p, d)] == opened[AT(p, d)]);             /* bond-in-table */
    if
    :: phase[AT(p, d)] + 1 == STEPS -> phase[AT(p, d)] = 0; closing[AT(p, d)] = 0
    :: else -> phase[AT(p, d)] = phase[AT(p, d)] + 1; closing[AT(p, d)] = n
    fi;
    settle(p)
}

/* Steps `s` and on of the IOMMU's driver, up to a window or to the end; `x` is the device, D the address space's end. */
inline advance(p) {
    do
    :: s < SYNCS ->
        if
        :: x == D ->
            r = 0;
            do
            :: r < D ->
                if
                :: SYNC(s) == IOTLB -> iotlb[AT(p, r)] = 0
                :: SYNC(s) == ATC -> atc[AT(p, r)] = 0
                :: else
                fi;
                r++
            :: else -> break
            od
        :: x < D && SYNC(s) == TABLE -> entry[AT(p, x)] = 0
        :: else ->
            r = 0;
            do
            :: r < P ->
                if
                :: SYNC(s) == IOTLB -> iotlb[AT(r, x)] = iotlb[AT(r, x)] & ~BIT(n)
                :: else -> atc[AT(r, x)] = atc[AT(r, x)] & ~BIT(n)
                fi;
                r++
            :: else -> break
            od
        fi;
        s++;
        if :: WINDOWS -> break :: else fi
    :: else -> break
    od;
    if
    :: s < SYNCS -> halted = p; done = s; device = x; under = n
    :: else ->
        halted = NOBODY; done = 0; device = 0; under = 0;
        if
        :: x < D -> r = x; opened[AT(p, r)] = 0; close_further(p, r)
        :: else -> settle(p)
        fi
    fi
}

#define CLOSE(p, d) \
:: d_step { CAN_UNBIND && halted == NOBODY && (opened[AT(p, d)] || closing[AT(p, d)]) -> \
    n = (closing[AT(p, d)] -> closing[AT(p, d)] : opened[AT(p, d)]); \
    s = STEP(phase[AT(p, d)]); \
    if \
    :: s == STOP -> \
        q = 0; \
        do \
        :: q < P -> if :: job[AT(q, d)] == n -> job[AT(q, d)] = 0 :: else fi; q++ \
        :: else -> break \
        od; \
        portal[AT(p, d)] = 0;                                /* it goes with the file */ \
        close_further(p, d) \
    :: s == DRAIN -> \
        r = 0; \
        do \
        :: r < P -> if :: asked[AT(r, d)] == n -> answer(r, d) :: else fi; r++ \
        :: else -> break \
        od; \
        close_further(p, d) \
    :: else -> \
        portal[AT(p, d)] = 0;                                /* it goes with the file */ \
        s = 0; x = d; \
        advance(p) \
    fi CLEAN }

#define EXIT(p, t) \
:: d_step { CAN_EXIT && halted == NOBODY && loaded[TASK(p, t)] != DEAD -> \
    loaded[TASK(p, t)] = DEAD; \
    living[p] = living[p] - 1; \
    if \
    :: living[p] \
    :: else -> \
        x = 0; held = 0; \
        do \
        :: x < D -> portal[AT(p, x)] = 0; held = held | opened[AT(p, x)]; x++ \
        :: else -> break \
        od; \
        if \
        :: held -> s = 0; x = D; n = 0; advance(p) \
        :: else -> settle(p) \
        fi \
    fi CLEAN }

#define RESUME(p) :: d_step { halted == p -> s = done; x = device; n = under; advance(p) CLEAN }

/* --- each of them for each process, device and task ------------------------------------------------------------ */

#if T > 1
#define SECOND_T(A, p) A(p, 1)
#define SECOND_TD(A, p, d) A(p, d, 1)
#else
#define SECOND_T(A, p)
#define SECOND_TD(A, p, d)
#endif
#if T > 2
#define THIRD_T(A, p) A(p, 2)
#define THIRD_TD(A, p, d) A(p, d, 2)
#else
#define THIRD_T(A, p)
#define THIRD_TD(A, p, d)
#endif
#define EACH_T(A, p) A(p, 0) SECOND_T(A, p) THIRD_T(A, p)
#define EACH_TD(A, p, d) A(p, d, 0) SECOND_TD(A, p, d) THIRD_TD(A, p, d)

#define OF_PAIR(p, d) BIND(p, d) CLOSE(p, d) MAP(p, d) EACH_TD(WRITE_BY, p, d) RING(p, d) \
    COMPLETE(p, d) ASK(p, d) ANSWER(p, d)

#if D > 1
#define SECOND_D(p) OF_PAIR(p, 1)
#else
#define SECOND_D(p)
#endif
#if D > 2
#define THIRD_D(p) OF_PAIR(p, 2)
#else
#define THIRD_D(p)
#endif
#if D > 3
#define FOURTH_D(p) OF_PAIR(p, 3)
#else
#define FOURTH_D(p)
#endif
#define OF_PROCESS(p) OF_PAIR(p, 0) SECOND_D(p) THIRD_D(p) FOURTH_D(p) EACH_T(EXIT, p) RESUME(p)

init {
    d_step {
        q = 0;
        do
        :: q < P -> living[q] = T; q++
        :: else -> break
        od CLEAN
    }
    do
    OF_PROCESS(0)
#if P > 1
    OF_PROCESS(1)
#endif
#if P > 2
    OF_PROCESS(2)
#endif
#if P > 3
    OF_PROCESS(3)
#endif
    od
}
